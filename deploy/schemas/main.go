// Command schemas turns Kubernetes' OpenAPI document into one JSON schema per kind, in the
// form that kubeconform reads. The schemas are strict: a field that the API does not know is
// an error.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	swagger := flag.String("swagger", "", "OpenAPI v2 `file` of a Kubernetes release")
	out := flag.String("out", "", "`directory` for the schemas")
	flag.Parse()
	if err := run(*swagger, *out); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

type object = map[string]any

func run(swagger, out string) error {
	text, err := os.ReadFile(swagger)
	if err != nil {
		return err
	}
	var doc struct {
		Definitions map[string]object `json:"definitions"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("%s: %w", swagger, err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, def := range doc.Definitions {
		tighten(name, def)
	}
	for name, def := range doc.Definitions {
		kinds, _ := def["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			schema, err := json.Marshal(object{"$ref": "#/definitions/" + name, "definitions": closure(doc.Definitions, name)})
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(out, fileOf(k.(object))), schema, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileOf is kubeconform's name for a kind: deployment-apps-v1.json, service-v1.json.
func fileOf(kind object) string {
	str := func(key string) string { s, _ := kind[key].(string); return strings.ToLower(s) }
	parts := []string{str("kind")}
	if group, _, _ := strings.Cut(str("group"), "."); group != "" {
		parts = append(parts, group)
	}
	return strings.Join(append(parts, str("version")), "-") + ".json"
}

// tighten makes a definition refuse unknown fields, and says what the document only hints:
// that two types stand for a number or a string.
func tighten(name string, def object) {
	if strings.HasSuffix(name, ".IntOrString") || strings.HasSuffix(name, ".Quantity") {
		delete(def, "type")
		delete(def, "format")
		def["type"] = []string{"string", "number"}
		return
	}
	if _, ok := def["properties"]; ok {
		def["additionalProperties"] = false
	}
}

// closure returns a definition and all that it refers to.
func closure(all map[string]object, name string) map[string]object {
	found := map[string]object{}
	var visit func(v any)
	visit = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				target := strings.TrimPrefix(ref, "#/definitions/")
				if _, seen := found[target]; !seen {
					found[target] = all[target]
					visit(all[target])
				}
			}
			for _, child := range v {
				visit(child)
			}
		case []any:
			for _, child := range v {
				visit(child)
			}
		}
	}
	visit(object{"$ref": "#/definitions/" + name})
	return found
}
