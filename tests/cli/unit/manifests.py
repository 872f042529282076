"""Manifests as people have them: those of the articles about OpenShift's egress routers, and some of our own."""

from __future__ import annotations

REDIRECT = """
apiVersion: v1
kind: ReplicationController
metadata:
  name: egress-router
spec:
  replicas: 1
  selector:
    name: egress-router
  template:
    metadata:
      name: egress-router
      labels:
        name: egress-router
      annotations:
        pod.network.openshift.io/assign-macvlan: "true"
    spec:
      initContainers:
      - name: egress-demo-init
        image: docker.io/openshift/origin-egress-router
        env:
        - name: EGRESS_SOURCE
          value: 10.42.253.46
        - name: EGRESS_GATEWAY
          value: 10.42.253.1
        - name: EGRESS_DESTINATION
          value: 8.8.8.8
        - name: EGRESS_ROUTER_MODE
          value: init
        securityContext:
          privileged: true
        serviceAccountName: egress-init
      containers:
      - name: egress-demo-wait
        image: docker.io/openshift/origin-pod
      nodeSelector:
        node-role.kubernetes.io/infra: "true"
      serviceAccountName: egress-init
"""

HTTP_PROXY = (
    REDIRECT.replace("value: init", "value: http-proxy")
    .replace("        - name: EGRESS_DESTINATION\n          value: 8.8.8.8\n", "")
    .replace(
        "      - name: egress-demo-wait\n        image: docker.io/openshift/origin-pod\n",
        "      - name: egress-demo-proxy\n        env:\n        - name: EGRESS_HTTP_PROXY_DESTINATION\n"
        "          value: |\n            !perdu.com\n            *\n"
        "        image: openshift/origin-egress-http-proxy\n",
    )
)

#: What a web page makes of a manifest.
TYPOGRAPHIC = REDIRECT.replace('"true"', "“true”").replace("      - name", "      – name")

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: egress-rules}
data:
  rules: |
    80 tcp 203.0.113.25
    8080 tcp 203.0.113.26 80
    203.0.113.27
  EGRESS_GATEWAY: 192.0.2.1
"""


def pod(env: str, extra: str = "", name: str = "egress-1") -> str:
    """Return a Pod whose only container has the YAML ``env`` (a flow sequence) and the keys ``extra`` (flow style)."""
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{pod.network.openshift.io/assign-macvlan: "true"}}}}
spec:
  volumes: [{{name: rules, configMap: {{name: egress-rules}}}}]
  initContainers:
  - {{name: init, image: router, securityContext: {{privileged: true}}, env: {env}{extra}}}
"""


def values(**env: str) -> str:
    """Return variables as a flow sequence."""
    return "[" + ", ".join(f"{{name: {name}, value: '{value}'}}" for name, value in env.items()) + "]"


def plain(source: str = "192.0.2.46", rule: str = "80 tcp 203.0.113.25", name: str = "egress-1") -> str:
    """Return a Pod that is a redirect router with one rule."""
    env = values(EGRESS_SOURCE=source, EGRESS_GATEWAY="192.0.2.1", EGRESS_DESTINATION=rule, EGRESS_ROUTER_MODE="init")
    return pod(env, name=name)
