"""Objects that another program must process first, and files without a pod of ours: what they have instead."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.config.inputs import Problems
from egress_router.errors import ConfigurationError, Problem
from egress_router.manifests.forms import UNPROCESSED
from egress_router.manifests.objects import Objects


def warn_unprocessed(objects: Objects, problems: Problems) -> None:
    """Warn of objects beside the pods that were passed over, since another program must process them first."""
    for kind, (message, expected) in UNPROCESSED.items():
        for item in objects.of_kind(kind):
            where = item.file if item.name == "?" else f"{item.file} {item.where}"
            problems.warn(where, None, "", f"{message}: passed over", expected.format(item.file))


def no_pods(objects: Objects, labels: Iterable[str], command: str) -> ConfigurationError:
    """Return the error of files without a pod that has EGRESS_* variables: what they have, and what to do with it."""
    names = ", ".join(labels)
    for kind, (message, expected) in UNPROCESSED.items():
        if kind in objects.kinds() and not (kind == "EgressRouter" and command == "migrate"):
            return ConfigurationError([Problem(names, None, "", message, expected.format(names))])
    for item in objects:
        if item.kind == "NetworkAttachmentDefinition" and '"egress-router"' in str(item.spec.get("config")):
            message = "is a network attachment of the CNI plugin egress-router, made for an EgressRouter"
            expected = "`oc get egressrouter -o yaml` has what `egress-router migrate` takes"
            return ConfigurationError([Problem(names, None, "", message, expected)])
    if set(objects.kinds()) <= {"ConfigMap", "Secret", "Service"} and objects.kinds():
        kinds = objects.kinds()
        message = f"has a {kinds[0]} alone" if len(kinds) == 1 else f"has {' and '.join(kinds)}"
        message += ", and no pod that uses it"
        expected = "the workload too: -f takes several files, and directories"
        return ConfigurationError([Problem(names, None, "", message, expected)])
    wanted = "a Pod, or an object with a pod template, whose containers have them"
    if command == "migrate":
        wanted = "an EgressRouter, or a pod whose containers have EGRESS_* variables"
        return ConfigurationError([Problem(names, None, "", "has no egress router", wanted)])
    return ConfigurationError([Problem(names, None, "", "has no pod with EGRESS_* variables", wanted)])
