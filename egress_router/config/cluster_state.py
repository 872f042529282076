"""YAML or JSON text with Kubernetes objects → the cluster's state. Pure; every problem found is noted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import yaml

from egress_router.config.cluster_state_objects import ClusterObject, RecordedAssignment, parse_object
from egress_router.config.inputs import Problems
from egress_router.model.egressip import ClusterState, HostSubnet, NetNamespace, Pod

#: The loader in C is ten times as fast; a PyYAML built without libyaml lacks it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_objects(file: str, text: str, problems: Problems) -> list[ClusterObject]:
    """Return the objects in one file: JSON, or YAML with any number of documents, Lists unpacked.

    Objects of other kinds are passed over. ``file`` is the name to blame. An object with a problem is left out.
    """
    found = []
    for document in documents(file, text, problems):
        for raw in unpacked(document):
            parsed = parse_object(file, raw, problems)
            if parsed is not None:
                found.append(parsed)
    return found


def documents(file: str, text: str, problems: Problems) -> list[object]:
    """Return the documents of a file as plain data; none when the text is neither JSON nor YAML."""
    try:
        if file.endswith(".json"):
            return [json.loads(text)]
        return [document for document in yaml.load_all(text, Loader=LOADER) if document is not None]
    except json.JSONDecodeError as error:
        problems.error(file, error.lineno, "", f"is not JSON: {error.msg}")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problems.error(file, line, "", f"is not YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problems.error(file, None, "", f"is neither YAML nor JSON: {error}")
    return []


def unpacked(document: object) -> Iterator[object]:
    """Yield the object, or the items of a List (as ``kubectl get -o yaml`` prints)."""
    if isinstance(document, Mapping) and str(document.get("kind", "")).endswith("List"):
        items = document.get("items")
        if isinstance(items, list):
            for item in items:
                yield from unpacked(item)
            return
    yield document


def assemble(files: Mapping[str, list[ClusterObject]], problems: Problems) -> ClusterState:
    """Put the objects of all files together. Of an object that stands in two places the one in the file with the
    first name counts, and that is a problem: nobody can tell which one is meant.
    """
    namespaces: dict[str, NetNamespace] = {}
    nodes: dict[str, HostSubnet] = {}
    pods: dict[tuple[str, str], Pod] = {}
    assignments: dict[str, RecordedAssignment] = {}
    where: dict[tuple[str, str], str] = {}
    for file in sorted(files):
        for item in files[file]:
            identity = (type(item).__name__, f"{item.namespace}/{item.name}" if isinstance(item, Pod) else item.name)
            if isinstance(item, RecordedAssignment):
                identity = ("EgressIPAssignment", "")
            if identity in where:
                problems.error(
                    file,
                    None,
                    identity[1],
                    f"this {identity[0]} stands in {where[identity]} too",
                    "one object of a name",
                )
                continue
            where[identity] = file
            if isinstance(item, NetNamespace):
                namespaces[item.name] = item
            elif isinstance(item, HostSubnet):
                nodes[item.name] = item
            elif isinstance(item, Pod):
                pods[item.namespace, item.name] = item
            else:
                assignments[item.name] = item
    recorded = next(iter(assignments.values()), None)
    if recorded is None:
        return ClusterState(namespaces, nodes, pods)
    return ClusterState(namespaces, nodes, pods, dict(recorded.assignment), recorded.offline)


def parse_cluster_state(files: Mapping[str, str], problems: Problems) -> ClusterState:
    """Return the state that the files (name → text) describe together."""
    return assemble({file: parse_objects(file, text, problems) for file, text in files.items()}, problems)
