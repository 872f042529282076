"""What is no manifest is told apart, with what to do: templates that must be processed first, other formats, files of
charts, empty files; and values that a template, a callout or Kubernetes itself left in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from egress_router.config.kubernetes_yaml import YamlError
from egress_router.errors import Problem

#: Kinds that become manifests by another program first: what each is, and what to do with it.
UNPROCESSED = {
    "Template": ("is an OpenShift Template", "process it first: oc process -f {} > processed.json"),
    "EgressRouter": (
        "is an EgressRouter of OVN-Kubernetes, whose pods its operator makes",
        "`egress-router migrate {}` turns it into manifests of ours",
    ),
    "Kustomization": ("is a kustomization", "build it first: kubectl kustomize DIRECTORY > built.yaml"),
    "HelmRelease": ("is a HelmRelease", "render its chart first: helm template CHART > rendered.yaml"),
}
#: What web pages and word processors make of ``"``, ``'`` and ``-``.
_TYPOGRAPHIC = "“”„‘’‚–—‑"
_GO_TEMPLATE = re.compile(
    r"\{\{-?\s*(?:[.$\"(`/]|if\b|range\b|with\b|include\b|template\b|define\b|end\b|else\b|toYaml\b)"
)
_JINJA = re.compile(r"\{%|\{\{-?\s*[A-Za-z_]")
_JSONNET = re.compile(r"^\s*(?:local\s+\w+\s*=|\w+::|import\s+['\"])", re.MULTILINE)
#: A number that a page of documentation puts behind a line to explain it below.
CALLOUT = re.compile(r"(?:[ \t]+(?:<[0-9]{1,2}>|\([0-9]{1,2}\)|[①-⑳❶-❿➀-➉]))+[ \t]*$")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")
_EXPECTED = "the manifest of a pod, or of a workload with a pod template"
_HELM = "render it first: helm template CHART > rendered.yaml, then -f rendered.yaml"
_KUSTOMIZATION = UNPROCESSED["Kustomization"]
_NAMES = {
    "Chart.yaml": ("is part of a Helm chart", _HELM),
    "values.yaml": ("is part of a Helm chart", _HELM),
    "kustomization.yaml": _KUSTOMIZATION,
    "kustomization.yml": _KUSTOMIZATION,
    "Kustomization": _KUSTOMIZATION,
}


def not_yaml(text: str, label: str, error: YamlError) -> Problem:
    """Return the problem of a text that cannot be read: what it is, or what is wrong with its YAML."""
    if template := _GO_TEMPLATE.search(text):
        line = text.count("\n", 0, template.start()) + 1
        return Problem(label, error.line, "", f"is a Helm or Go template (line {line})", _HELM)
    if template := _JINJA.search(text):
        line = text.count("\n", 0, template.start()) + 1
        message = f"is a template, of Jinja (Ansible) it seems (line {line})"
        return Problem(label, error.line, "", message, "render it first, then -f the result")
    if label.endswith((".jsonnet", ".libsonnet")) or _JSONNET.search(text):
        expected = f"render it first: jsonnet {label} > rendered.json, then -f rendered.json"
        return Problem(label, error.line, "", "is Jsonnet, which must be evaluated first", expected)
    return Problem(label, error.line, "", error.message, _hint(text, label, error.line) or _list_hint(text))


def _hint(text: str, label: str, at: int | None) -> str:
    lines = text.split("\n")
    for number, raw in enumerate(lines, start=1):
        found = next((character for character in raw if character in _TYPOGRAPHIC), None)
        if found is not None:
            return f'line {number} of {label} has a typographic "{found}": write straight quotes and plain hyphens'
        if callout := CALLOUT.search(raw):
            mark = callout[0].strip()
            return f'line {number} of {label} ends with "{mark}", a callout of a page of documentation: remove it'
    if at is not None and at <= len(lines) and re.match(r" *\t", lines[at - 1]):
        return "a tab is no indentation in YAML: spaces"
    if re.search(r"^(?:<{7}|={7}|>{7})(?: |$)", text, re.MULTILINE):
        return "it has marks of a merge conflict (<<<<<<<)"
    return ""


def _list_hint(text: str) -> str:
    words = next((line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), [])
    if words[:1] and words[0] in ("acl", "http_access", "http_port", "cache_peer"):
        return "this is a squid.conf; the policy is a list of destinations (docs/http-proxy.md)"
    if words[:1] and _VARIABLE.match(words[1] if words[0] == "export" and words[1:] else words[0]):
        return "these are variables: --env-file takes them"
    if words[:2] and (words[0] in ("NAME", "NAMESPACE") or words[0] == "Name:"):
        return "this is for people to read: `oc get … -o yaml` prints what can be read here"
    return ""


def no_object(text: str, label: str, values: Sequence[Any]) -> Problem:
    """Return the problem of a text that has no object."""
    if _GO_TEMPLATE.search(text):
        return Problem(label, None, "", "is a Helm or Go template", _HELM)
    if not text.strip("\ufeff \t\r\n"):
        return Problem(label, None, "", "is empty", _EXPECTED)
    if not values:
        return Problem(label, None, "", "is empty but for comments", _EXPECTED)
    if known := _NAMES.get(PurePath(label).name):
        return Problem(label, None, "", *known)
    lists = [one["kind"] for one in values if isinstance(one, dict) and str(one.get("kind", "")).endswith("List")]
    if len(lists) == len(values):
        return Problem(label, None, "", f"is a {lists[0]} without items", _EXPECTED)
    expected = _list_hint(text) or "YAML or JSON with kind and metadata; variables alone are an --env-file"
    return Problem(label, None, "", "has no Kubernetes object", expected)


def explained(problem: Problem) -> Problem:
    """Say of a problem of a variable what its cause is, where the text tells: a template, a callout, a reference."""
    text = problem.text
    if "{{" in text or "{%" in text:
        expected = "the value is part of a Helm, Go or Jinja template: render it first (helm template)"
    elif found := re.search(r"\$\(([A-Za-z_][-.\w]*)\)", text):
        expected = (
            f"Kubernetes leaves {found[0]} as it is where no variable {found[1]} stands before it in the container"
        )
    elif re.search(r"\$\{|\$[A-Z_]", text):
        expected = "the value is a parameter of a Template, or of envsubst: process it first (oc process, envsubst)"
    elif found := CALLOUT.search(text):
        expected = f"without the callout {found[0].strip()} of a page of documentation"
    else:
        return problem
    return replace(problem, expected=expected)


def from_elsewhere(where: str) -> str:
    """Return what helps against a value that is not in the files."""
    if where.startswith(("the pod's field", "the container's")):
        return "a value here: the kubelet alone knows that one"
    return "put it into the same files to have it read: -f may be repeated"
