package main

import (
	"os"
	"strings"
	"testing"
)

// TestScalingPageIsTrue holds docs/scaling.md to what the model says.
func TestScalingPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	needs, ceilings := scaleTables()
	for _, table := range []string{needs, ceilings} {
		if !strings.Contains(string(page), table) {
			t.Errorf("docs/scaling.md does not have the table that `go run ./bench scale` prints:\n%s", table)
		}
	}
}
