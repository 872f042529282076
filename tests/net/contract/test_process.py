"""Programs that cannot be started, or that end badly: always an error of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_router.errors import PlatformError, ToolFailed
from egress_router.net import process


def test_programs(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="not installed") as missing:
        process.run_tool([str(tmp_path / "none")])
    assert missing.value.exit_code == 69
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with pytest.raises(PlatformError, match="may not be executed"):
        process.run_tool([str(plain)])
    plain.chmod(0o700)
    with pytest.raises(PlatformError, match="ENOEXEC"):
        process.run_tool([str(plain)])


def test_a_program_that_does_not_read_its_input() -> None:
    """Its end, not the broken pipe, is what is reported."""
    with pytest.raises(ToolFailed, match="exit status 3"):
        process.run_tool(["sh", "-c", "exit 3"], "x" * (1 << 20))
