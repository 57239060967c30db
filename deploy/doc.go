// Package deploy holds what runs Skald in containers: the Dockerfile, the Helm chart
// (helm/skald) and the plain Kubernetes manifests (kubernetes), which are rendered from the
// chart. Its tests validate all of them: against the API's schemas, against the restricted
// Pod Security Standard, and against the flags that the binary knows.
package deploy
