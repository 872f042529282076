"""The cluster's DNS: CoreDNS as a Deployment, with the Service address that kubelets give to pods."""

from __future__ import annotations

from typing import Any

from lab.kubernetes import plan
from lab.kubernetes.images import COREDNS

NAMESPACE = "kube-system"
LABELS = {"k8s-app": "kube-dns"}

COREFILE = """.:53 {
    errors
    ready :8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }
    forward . /etc/resolv.conf
    loop
    reload 2s
}
"""


def objects() -> list[dict[str, Any]]:
    """Return what is applied."""
    meta = {"name": "coredns", "namespace": NAMESPACE}
    lists = {"verbs": ["list", "watch"]}
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], **lists},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], **lists},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    ports = [("dns", "UDP", 53), ("dns-tcp", "TCP", 53)]
    container = {
        "name": "coredns",
        "image": COREDNS,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"name": name, "protocol": protocol, "containerPort": number} for name, protocol, number in ports],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": role["apiGroup"] + "/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "coredns"},
            "rules": rules,
        },
        {
            "apiVersion": role["apiGroup"] + "/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": COREFILE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": NAMESPACE, "labels": LABELS},
            "spec": {
                "clusterIP": plan.DNS_SERVICE,
                "selector": LABELS,
                "ports": [{"name": name, "protocol": protocol, "port": number} for name, protocol, number in ports],
            },
        },
    ]
