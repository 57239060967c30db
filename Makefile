# Skald's targets. `make` or `make help` lists them.

GO        ?= go
BIN       := bin
SKALD     := $(BIN)/skald
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X main.version=$(VERSION)
FUZZTIME  ?= 30s
S3_SERVER := github.com/versity/versitygw/cmd/versitygw@v1.8.0
HELM        := helm.sh/helm/v3/cmd/helm@v3.22.0
KUBECONFORM := github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
KUBERNETES  := k8s.io/kubernetes@v1.34.0

.DEFAULT_GOAL := help
.PHONY: help run build test race lint fuzz bench s3 kubernetes-tools manifests test-kubernetes clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## build, then collect this machine's own logs: skald up
	./$(SKALD) up

build: ## build the one binary, bin/skald
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(SKALD) ./cmd/skald

test: ## run every test once (integration tests start the real binary)
	$(GO) vet ./...
	$(GO) test ./...

race: ## run every test with the race detector
	$(GO) test -race ./...

lint: ## check the house rules: layers, package docs, formatting, nothing left for later
	$(GO) vet ./...
	$(GO) test ./internal/lint

fuzz: ## run every fuzz target for FUZZTIME (default 30s)
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

bench: ## run every Go benchmark once; bench/README.md has the whole-system runs
	$(GO) test -run '^$$' -bench . -benchtime 1x ./...

s3: ## install the S3 server that the storage tests use (they skip without it)
	GOBIN=$(abspath $(BIN)) $(GO) install $(S3_SERVER)

kubernetes-tools: ## install helm, kubeconform and the API's schemas, which the tests of deploy/ use
	GOBIN=$(abspath $(BIN)) $(GO) install $(KUBECONFORM)
	GOBIN=$(abspath $(BIN)) $(GO) install $(HELM)
	dir=$$($(GO) mod download -json $(KUBERNETES) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') && \
	  $(GO) run ./deploy/schemas -swagger "$$dir/api/openapi-spec/swagger.json" -out $(BIN)/kubernetes-schemas

manifests: kubernetes-tools ## render deploy/kubernetes from the Helm chart
	$(GO) test ./deploy -run TestPlainManifests -update

# Building the API server takes minutes the first time.
test-kubernetes: ## run the agent beside a real kube-apiserver, built into bin/kubernetes
	cd internal/testkit/kube/tools && \
	  CGO_ENABLED=0 $(GO) build -o $(abspath $(BIN))/kubernetes/etcd go.etcd.io/etcd/server/v3 && \
	  CGO_ENABLED=0 $(GO) build -o $(abspath $(BIN))/kubernetes/kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
	SKALD_KUBERNETES=$(abspath $(BIN))/kubernetes $(GO) test -count 1 -run TestKubernetes -v ./internal/integration

clean: ## remove what was built
	rm -rf $(BIN)
