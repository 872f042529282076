#!/bin/sh
# Kustomize 5.8.1 (also the one inside of kubectl 1.37.2): `namespace:` is written into ValidatingAdmissionPolicies.
#
# A kustomization's `namespace` is for objects of a namespace; those of the cluster, such as ClusterRoles and
# CustomResourceDefinitions, are left alone. ValidatingAdmissionPolicy and its binding (admissionregistration.k8s.io/v1, since
# Kubernetes 1.30) are objects of the cluster, too, and get one. kubectl and the API server take it without a word; programs
# that compare what is wanted with what is there, or one rendering with another, see a difference for ever.
#
# Here: a ClusterRole and a policy under `namespace: somewhere`, built by the kustomize (or kubectl) that is named, else by
# 5.8.1, which Go builds in a temporary folder. Exits 1 when this is no longer so.
#   findings/kustomize-namespaces-admission-policies.sh [kustomize build | kubectl kustomize]
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
if [ $# -eq 0 ]; then
    GOFLAGS=-modcacherw GOPATH=$work/go go install sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
    set -- "$work/go/bin/kustomize" build
fi
cat >"$work/kustomization.yaml" <<'YAML'
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: somewhere
resources: [objects.yaml]
YAML
cat >"$work/objects.yaml" <<'YAML'
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: a}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: a}
spec: {validations: [{expression: "true"}]}
YAML
"$@" "$work" | tee "$work/built"
[ "$(grep -c 'namespace: somewhere' "$work/built")" -eq 1 ]
sed -n '/kind: ValidatingAdmissionPolicy/,/^spec/p' "$work/built" | grep -q 'namespace: somewhere'
