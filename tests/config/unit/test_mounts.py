"""Files that are mounts of their own."""

from __future__ import annotations

from pathlib import Path

from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.config.mounts import mount_points, warn_own_mounts

TEXT = (
    "22 1 0:20 / / rw - overlay overlay rw\n"
    "36 22 8:1 /pods/x/policy {}/policy ro - ext4 /dev/sda1 rw\n"
    "37 22 8:1 /pods/y /with\\040blank ro - ext4 /dev/sda1 rw\n\nbroken\n"
)


def test_mount_points() -> None:
    assert mount_points(TEXT.format("/etc")) == {"/", "/etc/policy", "/with blank"}


def test_a_file_that_was_mounted_by_itself_is_a_warning(tmp_path: Path) -> None:
    info = tmp_path / "mountinfo"
    info.write_text(TEXT.format(tmp_path))
    (tmp_path / "policy").write_text("*")
    (tmp_path / "link").symlink_to(tmp_path / "policy")
    for name, count in (("policy", 1), ("link", 1), ("other", 0)):
        variable, path = "EGRESS_HTTP_PROXY_DESTINATION_FILE", str(tmp_path / name)
        problems = Problems()
        warn_own_mounts(Inputs({variable: path}, {variable: SourceText(variable, "*")}), problems, info)
        assert len(problems.warnings) == count, name
        assert not problems.errors
