"""SecurityContextConstraints that let the pods in that are written, those that keep parts of other pods too.

What an SCC does not allow is refused by OpenShift's admission, and what it has a default for is set in every container
that says nothing. Source: security.openshift.io/v1, and openshift/apiserver-library-go, pkg/securitycontextconstraints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from egress_router.manifests.values import Constraints, Kept

#: Of the pods without anything kept.
_VOLUMES = ("configMap", "emptyDir")
_CAPABILITIES = ("NET_ADMIN", "NET_RAW")


def constraints_for(kept: Iterable[Kept], *, privileged: bool, sysctls: Iterable[str]) -> Constraints:
    """Return what the SCC must have for routers with these kept parts. ``privileged`` is the router's own need,
    ``sysctls`` the names that no kubelet allows by itself.
    """
    kept = list(kept)
    foreign = [container for one in kept for container in one.foreign]
    contexts = [_mapping(container.get("securityContext")) for container in foreign]
    pods = [one.security for one in kept]
    whole = privileged or any(context.get("privileged") is True for context in contexts)
    volumes = {key for one in kept for volume in one.volumes for key in volume if key != "name"}
    added = {name for context in contexts for name in _names(_mapping(context.get("capabilities")).get("add"))}
    kept_sysctls = {str(_mapping(item).get("name")) for one in pods for item in one.get("sysctls") or ()}
    return Constraints(
        volumes=tuple(sorted({*_VOLUMES, *volumes})),
        capabilities=tuple(sorted({*_CAPABILITIES, *added})),
        unsafe_sysctls=(*sysctls, *sorted(kept_sysctls - set(sysctls))),
        privileged=whole,
        # A container that says nothing would get the SCC's "false".
        escalation=whole or any(context.get("allowPrivilegeEscalation") is not False for context in contexts),
        host_directories="hostPath" in volumes,
        host_ports=any("hostPort" in port for container in foreign for port in _mappings(container.get("ports"))),
        # The same: other containers may write to their root.
        read_only_root=all(context.get("readOnlyRootFilesystem") is True for context in contexts),
        any_group=any("fsGroup" in pod for pod in pods),
        any_label=whole or any("seLinuxOptions" in context for context in (*contexts, *pods)),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _names(value: Any) -> Iterator[str]:
    return (item for item in value if isinstance(item, str)) if isinstance(value, list) else iter(())
