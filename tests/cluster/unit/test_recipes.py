"""Folders of the cache tell what is in them; a half build is never there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lab.kubernetes import builder, cache, coredns, recipes
from lab.kubernetes.cluster import wanted
from lab.kubernetes.plan import Plan


def test_another_recipe_has_another_folder() -> None:
    assert recipes.kube("1.37.2").folder != recipes.kube("1.31.14").folder
    runc = recipes.runc()
    assert replace(runc, flags=("-tags", "none")).folder != runc.folder
    assert runc.folder == recipes.runc().folder


def test_the_version_is_linked_in() -> None:
    assert "gitVersion=v1.31.14" in recipes.kube("1.31.14").flags[-1]
    assert "gitMinor=31" in recipes.kube("1.31.14").flags[-1]


def test_what_is_published_is_there_at_once_and_killed_builds_go(tmp_path: Path) -> None:
    (tmp_path / "unfinished-old").mkdir()
    recipe = recipes.runc()
    with cache.locked(tmp_path, print), cache.unfinished(tmp_path) as place:
        assert not (tmp_path / "unfinished-old").exists()
        (place / "out").mkdir()
        (place / "out" / "runc").touch()
        assert not builder.built(recipe, tmp_path)
        cache.publish(place / "out", tmp_path / recipe.folder)
    assert builder.ensure([recipe], print, tmp_path) == {"runc": tmp_path / recipe.folder / "runc"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["lock", recipe.folder])


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.folder() == Path("/somewhere/egress-router/kubernetes")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert cache.folder() == Path("/home/user/.cache/egress-router/kubernetes")


def test_coredns_has_the_plugins_that_its_configuration_names() -> None:
    (source,) = recipes.coredns().sources
    built = set(re.findall(r"plugin/(\w+)", (recipes.SOURCES / source).read_text()))
    named = set(re.findall(r"^    (\w+)", coredns.COREFILE, re.MULTILINE))
    assert built == named


def test_kube_router_is_built_where_it_is_wanted() -> None:
    assert "kube-router" not in {recipe.name for recipe in wanted(Plan())}
    assert "kube-router" in {recipe.name for recipe in wanted(Plan(cni="kube-router"))}
