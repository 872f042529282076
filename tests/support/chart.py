"""The Helm chart's files, made from the Kustomize base: one source, so that neither lacks what the other has.

A substitution whose text the base has no more is an error: the base was changed, and how the chart follows is to be
said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

CHART = "charts/egress-router"
BASE = "deploy/egress-ips/base"
COMPONENTS = "deploy/egress-ips/components"
_HEAD = "# Made from {}: change that, and write this anew (pytest --golden-update tests/project/golden).\n"
_NAMESPACED = ("ServiceAccount", "Role", "RoleBinding", "ConfigMap", "DaemonSet", "Deployment", "PodDisruptionBudget")
_NAMESPACE = "{{ .Release.Namespace }}"
_ACCOUNT = "system:serviceaccount:egress-router:"
_OUR_ACCOUNT = f"system:serviceaccount:{_NAMESPACE}:"
#: What stands in the base, and what in its place.
_Substitutions = tuple[tuple[str, str], ...]

_IMAGE = (
    "        image: egress-router-node\n",
    """\
        image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
        {{- with .Values.image.pullPolicy }}
        imagePullPolicy: {{ . }}
        {{- end }}
""",
)
_SECRETS = (
    "      priorityClassName:",
    """\
      {{- with .Values.image.pullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      priorityClassName:""",
)
_WITNESSES = """\
witnesses: {{ join "," .Values.witnesses | quote }}
  {{- if .Values.drainGuard.enabled }}
  # `kubectl drain` begins with a cordon, and a drain has no other sign.
  drain-on-cordon: "on"
  {{- end }}
  {{- if .Values.standby }}
  # Each address has a node that keeps its connections and takes it over.
  standby: "on"
  {{- end }}
"""
_ENV = """\
        {{- with .Values.apiServer }}
        - {name: EGRESS_API_SERVER, value: {{ . | quote }}}
        {{- end }}
        {{- if .Values.agentKeys.secret }}
        - {name: EGRESS_AGENT_KEYS, value: /etc/egress-router/agent-keys/keys}
        {{- end }}
        {{- with .Values.WORKLOAD.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
"""
#: As the component signatures has it.
_KEYS_MOUNT = "        - {name: agent-keys, mountPath: /etc/egress-router/agent-keys, readOnly: true}\n"
_KEYS_VOLUME = "      - name: agent-keys\n        secret: {secretName: {{ . }}, defaultMode: 0400}\n"
_RUN_MOUNT = "        - {name: run, mountPath: /run/egress-router}\n"
_RUN_VOLUME = "        hostPath: {path: /run/egress-router, type: DirectoryOrCreate}\n"


def _taken(workload: str, field: str, indent: int, before: str) -> tuple[str, str]:
    """Substitute a field of a pod, which stands ``before``, with a value of the chart."""
    name = before.lstrip().partition(":")[0]
    spaces = " " * (len(before) - len(before.lstrip()))
    return before, f"{spaces}{name}: {{{{- toYaml .Values.{workload}.{field} | nindent {indent} }}}}\n"


def _after(line: str, workload: str) -> tuple[str, str]:
    """Add further variables after a line."""
    return line, line + _ENV.replace("WORKLOAD", workload)


#: What deploy/egress-ips/components/nri adds: to variables, mounts, volumes.
_NRI = (
    '        - {name: EGRESS_NRI, value: "on"}\n',
    "        - {name: nri, mountPath: /var/run/nri, readOnly: true}\n",
    """\
      # The folder, and not the socket in it, which the runtime makes anew when it starts.
      - name: nri
        hostPath: {path: /var/run/nri, type: DirectoryOrCreate}
""",
)


def _with_nri(line: str, added: str) -> tuple[str, str]:
    """Add what the container runtime is heard by after a line, where it is asked for."""
    spaces = " " * (len(added) - len(added.lstrip()))
    return line, f"{line}{spaces}{{{{- if .Values.nri.enabled }}}}\n{added}{spaces}{{{{- end }}}}\n"


_INTERFACE = "          valueFrom: {configMapKeyRef: {name: egress-ips, key: interface}}\n"
_ON_CORDON = "          valueFrom: {configMapKeyRef: {name: egress-ips, key: drain-on-cordon, optional: true}}\n"
_GRACE = "      terminationGracePeriodSeconds:"
_LINUX = "      nodeSelector:\n        kubernetes.io/os: linux\n"
_RESOURCES = "        resources:\n          requests: {cpu: 50m, memory: 64Mi}\n          limits: {memory: SIZE}\n"
_CONTROL_PLANE = "{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}"
_TEMPLATES: Mapping[str, _Substitutions] = {
    "settings": (
        ("10.128.0.0/14,172.30.0.0/16,192.0.2.0/24", '{{ join "," .Values.clusterNetworks }}'),
        ("interface: eth0", "interface: {{ .Values.interface }}"),
        ('witnesses: ""\n', _WITNESSES),
    ),
    "rbac": (("namespace: egress-router}", f"namespace: {_NAMESPACE}}}"),),
    "admission": ((_ACCOUNT, _OUR_ACCOUNT),),
    "agent": (
        _IMAGE,
        _SECRETS,
        _taken("agent", "tolerations", 8, "      tolerations:\n      - operator: Exists\n"),
        _taken("agent", "nodeSelector", 8, _LINUX),
        _taken("agent", "resources", 10, _RESOURCES.replace("SIZE", "256Mi")),
        _after(_INTERFACE, "agent"),
        _with_nri(_INTERFACE, _NRI[0]),
        (
            _RUN_MOUNT,
            f"{_RUN_MOUNT}        {{{{- if .Values.agentKeys.secret }}}}\n{_KEYS_MOUNT}        {{{{- end }}}}\n",
        ),
        _with_nri(_RUN_MOUNT, _NRI[1]),
        (
            _RUN_VOLUME,
            f"{_RUN_VOLUME}      {{{{- with .Values.agentKeys.secret }}}}\n{_KEYS_VOLUME}      {{{{- end }}}}\n",
        ),
        _with_nri(_RUN_VOLUME, _NRI[2]),
    ),
    "controller": (
        _IMAGE,
        _SECRETS,
        ("  replicas: 2\n", "  replicas: {{ .Values.controller.replicas }}\n"),
        _taken("controller", "tolerations", 8, f"      tolerations:\n      - {_CONTROL_PLANE}\n"),
        _taken("controller", "nodeSelector", 8, _LINUX),
        # It mounts nothing else.
        (
            _RESOURCES.replace("SIZE", "512Mi"),
            (
                "        resources: {{- toYaml .Values.controller.resources | nindent 10 }}\n"
                "        {{- with .Values.agentKeys.secret }}\n        volumeMounts:\n"
                f"{_KEYS_MOUNT}      volumes:\n{_KEYS_VOLUME}        {{{{- end }}}}\n"
            ),
        ),
        _after(
            "          valueFrom: {configMapKeyRef: {name: egress-ips, key: drain-on-cordon, optional: true}}\n",
            "controller",
        ),
    ),
}
#: Components that a value switches on.
_SWITCHED: Mapping[str, tuple[str, _Substitutions]] = {
    "openshift/scc": ("openshift.securityContextConstraints", ((_ACCOUNT, _OUR_ACCOUNT),)),
    "guard/guard": (
        "drainGuard.enabled",
        (
            _IMAGE,
            (_GRACE, _SECRETS[1].replace("      priorityClassName:", _GRACE)),
            ("  replicas: 2\n", "  replicas: {{ .Values.drainGuard.replicas }}\n"),
            (
                "      tolerations: []\n",
                "      tolerations: {{- toYaml .Values.drainGuard.tolerations | nindent 8 }}\n",
            ),
            ("  namespace: egress-router\n", f"  namespace: {_NAMESPACE}\n"),
            ("namespace: egress-router}", f"namespace: {_NAMESPACE}}}"),
            (_ACCOUNT, _OUR_ACCOUNT),
        ),
    ),
    "monitoring/podmonitors": (
        "monitoring.podMonitor",
        (("  namespace: egress-router\n", f"  namespace: {_NAMESPACE}\n"),),
    ),
}


def chart_files(checkout: Path) -> dict[str, str]:
    """Return the files that are made, by their path in the chart: templates and the definitions of our objects."""
    found: dict[str, str] = {}
    for name, substitutions in _TEMPLATES.items():
        source = f"{BASE}/{name}.yaml"
        text = _substituted(source, _with_namespaces((checkout / source).read_text()), substitutions)
        found[f"templates/{name}.yaml"] = _HEAD.format(source) + text
    for name, (value, substitutions) in _SWITCHED.items():
        source = f"{COMPONENTS}/{name}.yaml"
        text = _substituted(source, (checkout / source).read_text(), substitutions)
        found[f"templates/{Path(name).name}.yaml"] = (
            f"{_HEAD.format(source)}{{{{- if .Values.{value} }}}}\n{text}{{{{- end }}}}\n"
        )
    for path in sorted((checkout / BASE / "crds").glob("*.yaml")):
        found[f"crds/{path.name}"] = path.read_text()
    return found


def left_out(checkout: Path) -> set[str]:
    """Return the resources of the base of which no file is made, so that a new one is not forgotten."""
    text = (checkout / BASE / "kustomization.yaml").read_text()
    named = set(re.findall(r"^- ((?:crds/)?[a-z-]+\.yaml)$", text, re.MULTILINE))
    return {path for path in named if not path.startswith("crds/")} - {f"{name}.yaml" for name in _TEMPLATES}


def _with_namespaces(text: str) -> str:
    """Write the namespace into every object that has one: Kustomize does that by itself."""
    return "---\n".join(_with_namespace(document) for document in re.split(r"^---\n", text, flags=re.MULTILINE))


def _with_namespace(document: str) -> str:
    kind = re.search(r"^kind: (\w+)$", document, re.MULTILINE)
    if kind is None or kind[1] not in _NAMESPACED:
        return document
    head = re.search(r"^metadata:\n  name: [a-z-]+\n", document, re.MULTILINE)
    if head is None:
        raise ValueError(f"a {kind[1]} whose metadata does not begin with its name")
    return f"{document[: head.end()]}  namespace: {_NAMESPACE}\n{document[head.end() :]}"


def _substituted(source: str, text: str, substitutions: _Substitutions) -> str:
    for old, new in substitutions:
        if old not in text:
            raise ValueError(f"{source} has no {old!r} any more: say in {__name__} what the chart shall have")
        text = text.replace(old, new)
    return text
