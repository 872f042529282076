"""What the package reads at run time is in the wheel: a checkout has every file, an image only these."""

from __future__ import annotations

import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]


def test_every_file_of_the_package_is_in_the_wheel() -> None:
    patterns = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    root = CHECKOUT / "egress_router"
    packed = {path for pattern in patterns["egress_router"] for path in root.glob(pattern)}
    files = {path for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert root / "py.typed" in files, "the control"
    assert files - packed == set()
