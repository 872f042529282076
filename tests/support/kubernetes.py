"""A real Kubernetes for tests: an API server alone (``api_server``), or a whole cluster (``cluster``).

What is not built yet is built after the collection, outside of any test's time limit. ALL_VERSIONS=1 in the environment
lets tests that are parametrized with VERSIONS or PROXIES run with every one (`scripts/test cluster --all`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from lab.kubernetes import builder, recipes, versions
from lab.kubernetes import cluster as clusters
from lab.kubernetes.alone import api_server as run_api_server
from lab.kubernetes.api_server import ApiServer
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.plan import Plan

EVERYTHING = os.environ.get("ALL_VERSIONS") == "1"
#: For ``@pytest.mark.parametrize("api_server", VERSIONS, indirect=True)``.
VERSIONS = versions.TRIED if EVERYTHING else (versions.KUBERNETES,)
CLUSTERS = pytest.StashKey[list[Cluster]]()
WHOLE = {"cluster", "make_cluster"}


def custom_definition(
    group: str, version: str, kind: str, plural: str, scope: str, short: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a CustomResourceDefinition of somebody else's, which takes anything."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "shortNames": list(short)},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the selected tests need."""
    needed: dict[str, recipes.Recipe] = {}
    if os.geteuid() != 0 or session.config.option.collectonly:
        return
    for item in session.items:
        fixtures = _fixtures_from_here(item)
        params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        found = clusters.wanted(params.get("cluster", Plan())) if fixtures & WHOLE else []
        if fixtures & {"api_server", "make_api_server"}:
            found.append(recipes.api_server(str(params.get("api_server", versions.KUBERNETES))))
        needed |= {recipe.folder: recipe for recipe in found}
    missing = [recipe for recipe in needed.values() if not builder.built(recipe)]
    if missing:
        # Past pytest's own output, which a worker process of xdist has not.
        builder.ensure(missing, lambda line: print(line, file=sys.__stderr__, flush=True))


def _fixtures_from_here(item: pytest.Item) -> set[str]:
    """Return which fixtures of this module a test uses; other modules have some of the same names."""
    info = getattr(item, "_fixtureinfo", None)
    found = info.name2fixturedefs if info is not None else {}
    return {name for name, definitions in found.items() if definitions[-1].func.__module__ == __name__}


@pytest.fixture(scope="module")
def api_server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """Run an API server alone, on loopback, for the tests of one module; indirect parameters are its version."""
    with run_api_server(getattr(request, "param", versions.KUBERNETES)) as server:
        yield server


@pytest.fixture
def make_api_server() -> Iterator[Callable[..., ApiServer]]:
    """Run API servers that end with the test; takes the arguments of lab.kubernetes.alone.api_server."""
    with ExitStack() as stack:
        yield lambda *arguments, **named: stack.enter_context(run_api_server(*arguments, **named))


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Run a whole cluster for the tests of one module; an indirect parameter is its Plan (3 nodes by default)."""
    with Cluster(getattr(request, "param", Plan()), lambda _line: None) as cluster:
        yield cluster


@pytest.fixture
def make_cluster() -> Iterator[Callable[[Plan], Cluster]]:
    """Run clusters that end with the test."""
    with ExitStack() as stack:
        yield lambda shape: stack.enter_context(Cluster(shape, lambda _line: None))
