#!/bin/sh
# Helm 3.22.0 by `go install`: without a server it takes Kubernetes for 1.20, also in a release of 2026.
#
# `helm template` has no server to ask; of a release it takes the Kubernetes version that Helm was built for. That version comes
# from the release's Makefile (linker flags), so the program that the documented `go install` makes has the constants of the
# source: 1.20. A chart with `kubeVersion: ">=1.31.0-0"` is refused ("incompatible with Kubernetes v1.20.0"), and what asks
# `.Capabilities.KubeVersion` is rendered for 2020. `helm version` says nothing of it. `--kube-version`, or the linker flags for
# helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor and k8sVersionMinor, put it right.
#
# Here: one chart of one line, by the program as installed, with --kube-version, and with the flags. Needs Go; exits 1 when
# this is no longer so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
export HOME="$work" GOFLAGS=-modcacherw GOPATH="$work/go" GOCACHE="$work/cache" CGO_ENABLED=0
mkdir -p "$work/chart/templates"
printf 'apiVersion: v2\nname: chart\nversion: 0.1.0\n' >"$work/chart/Chart.yaml"
printf 'seen: {{ .Capabilities.KubeVersion.Version }}\n' >"$work/chart/templates/seen.yaml"
seen() { "$@" 2>&1 | grep -o 'seen: .*\|incompatible with Kubernetes v[0-9.]*'; }

go install helm.sh/helm/v3/cmd/helm@v3.22.0
helm=$work/go/bin/helm
{
    seen "$helm" template "$work/chart"
    seen "$helm" template --kube-version 1.34.4 "$work/chart"
    echo 'kubeVersion: ">=1.31.0-0"' >>"$work/chart/Chart.yaml"
    seen "$helm" template "$work/chart"
    where=helm.sh/helm/v3/pkg/chartutil
    go install -ldflags "-X $where.k8sVersionMajor=1 -X $where.k8sVersionMinor=34" helm.sh/helm/v3/cmd/helm@v3.22.0
    seen "$helm" template "$work/chart"
} | tee "$work/lines"
cat >"$work/expected" <<'LINES'
seen: v1.20.0
seen: v1.34.4
incompatible with Kubernetes v1.20.0
seen: v1.34.0
LINES
cmp "$work/expected" "$work/lines"
