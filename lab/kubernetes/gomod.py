"""The go.mod of a program around the parts of a module, made from that module's own.

Kubernetes asks for its staging modules at v0.0.0 and replaces them by folders of its own repository
(kubernetes#79384). As modules they have the same minor and patch number with major 0, so each `replace` becomes one to
that version.
"""

from __future__ import annotations

import re

from lab.kubernetes.errors import MissingError

KUBERNETES = "k8s.io/kubernetes"
ETCD = "go.etcd.io/etcd/server/v3"

_STAGED = re.compile(r"^\s*(?:replace\s+)?(k8s\.io/[\w-]+) => \./staging/\S+$", re.MULTILINE)
_GO = re.compile(r"^go (\d+\.\d+(?:\.\d+)?)$", re.MULTILINE)
_GODEBUG = re.compile(r"^godebug default=(go[\d.]+)$", re.MULTILINE)
_REQUIRED = re.compile(r"^\s*(?:require\s+)?(\S+) (v\S+)(?:\s*//.*)?$", re.MULTILINE)


def go_version(upstream: str) -> tuple[int, ...]:
    """Return the lowest version of Go that a go.mod asks for, such as (1, 26, 0)."""
    found = _GO.search(upstream)
    return tuple(int(part) for part in found[1].split(".")) if found else (1, 21)


def go_mod(module: str, version: str, upstream: str) -> str:
    """Return the text of go.mod for a program around ``module`` in a ``version`` such as 1.37.2, whose own go.mod is
    ``upstream``.

    Raises MissingError when the upstream text has no staging modules or does not name etcd's version.
    """
    if module != KUBERNETES:
        go = ".".join(map(str, go_version(upstream)))
        return f"module program\n\ngo {go}\n\nrequire {module} v{version}\n"
    staged = sorted(set(_STAGED.findall(upstream)))
    required = dict(_REQUIRED.findall(upstream))
    etcd = required.get(ETCD) or required.get("go.etcd.io/etcd/client/v3")
    if not staged or etcd is None:
        raise MissingError(f"the go.mod of Kubernetes {version} has no staging modules or no etcd: its form is unknown")
    staging = "v0." + version.removeprefix("1.")
    lines = ["module kube", "", f"go {'.'.join(map(str, go_version(upstream)))}", ""]
    if godebug := _GODEBUG.search(upstream):
        lines += [f"godebug default={godebug[1]}", ""]
    lines += ["require (", f"\t{KUBERNETES} v{version}", f"\t{ETCD} {etcd}"]
    lines += [f"\t{module} {staging}" for module in ("k8s.io/component-base", "k8s.io/kubectl")]
    if cobra := required.get("github.com/spf13/cobra"):
        lines += [f"\tgithub.com/spf13/cobra {cobra}"]
    lines += [")", "", "replace (", *(f"\t{module} => {module} {staging}" for module in staged), ")", ""]
    return "\n".join(lines)
