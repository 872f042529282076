"""The images hold what the tests ran with, each file checked by its hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]


def pins(name: str) -> dict[str, str]:
    """Return the versions that a requirements file pins, by normalised name (PEP 503)."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", (CHECKOUT / "requirements" / name).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^A-Za-z0-9-]", item)[0].lower() for item in project["dependencies"]}
    assert wanted
    assert wanted <= pins("run.txt").keys(), "the first lines of requirements/run.txt say how it is made anew"


def test_tests_run_with_the_same_versions() -> None:
    run, dev = pins("run.txt"), pins("dev.txt")
    assert run.items() <= dev.items()


def test_every_pin_has_hashes_and_no_address() -> None:
    for name in ("run.txt", "build.txt"):
        text = (CHECKOUT / "requirements" / name).read_text()
        entries = re.split(r"^(?=[a-z])", "\n".join(line for line in text.splitlines() if line[:1] != "#"), flags=re.M)
        entries = [entry for entry in entries if entry.strip()]
        assert len(entries) == len(pins(name))
        assert all("--hash=sha256:" in entry for entry in entries)
        assert "://" not in text
        assert "--index" not in text
