"""What scripts/build-images refuses, it refuses before anything is built."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "build-images"


@pytest.mark.parametrize("prefix", [{}, {"PREFIX": ""}, {"PREFIX": "localhost/"}])
def test_push_without_a_registry(prefix: dict[str, str], tmp_path: Path) -> None:
    builder = tmp_path / "buildah"
    builder.write_text(f"#!/bin/sh\ntouch {tmp_path}/built\n")
    builder.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "PREFIX"}
    env |= {"PATH": f"{tmp_path}:{env['PATH']}", "BUILDER": "buildah"} | prefix
    done = subprocess.run([SCRIPT, "--push"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 69
    assert "--push needs --registry" in done.stderr
    assert not (tmp_path / "built").exists()
