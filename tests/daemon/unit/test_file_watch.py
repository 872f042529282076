"""Files that change in all the ways in which files change under a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from egress_router.daemon.file_watch import DirectoryNotices, Identity, Watch, identify_all
from egress_router.errors import PlatformError


def config_map(directory: Path, text: str, version: str) -> None:
    """Write a version of a ConfigMap as the kubelet does: a new directory, and a link that is swapped."""
    (directory / version).mkdir(parents=True)
    (directory / version / "destinations").write_text(text)
    (directory / "..new").symlink_to(version)
    (directory / "..new").replace(directory / "..data")
    if not (directory / "destinations").is_symlink():
        (directory / "destinations").symlink_to("..data/destinations")


def test_a_config_map_that_is_swapped_has_changed_once(tmp_path: Path) -> None:
    config_map(tmp_path, "same", "..1")
    watch = Watch([tmp_path / "destinations"])
    assert not watch.changed()
    config_map(tmp_path, "same", "..2")
    assert watch.changed(), "also when the text is the same"
    assert not watch.changed()


def test_a_file_that_goes_and_comes_has_changed_each_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    watch = Watch([path])
    assert not watch.changed(), "missing is a state"
    path.write_text("x")
    assert watch.changed()
    os.utime(path, ns=(1, 1))
    assert watch.changed()
    path.unlink()
    assert watch.changed()
    assert not watch.changed()


def test_the_files_of_a_directory_are_those_that_are_wanted(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", "notes"):
        (tmp_path / name).write_text(name)
    (tmp_path / "c.yaml").symlink_to("nowhere")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    found = identify_all(tmp_path, lambda name: name.endswith(".yaml"))
    assert list(found) == ["a.yaml", "b.yaml", "c.yaml", "loop.yaml"]
    assert found["c.yaml"] == found["loop.yaml"] == Identity(None), "what they would say is unknown"
    (tmp_path / "nowhere").write_text("there now")
    assert identify_all(tmp_path, lambda name: name == "c.yaml")["c.yaml"].size == len("there now")
    with pytest.raises(FileNotFoundError):
        identify_all(tmp_path / "missing", bool)


def test_a_directory_tells_of_its_files_and_is_followed_when_it_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    notices = DirectoryNotices(directory)
    try:
        assert not notices.wait(0)
        (directory / "one").write_text("x")
        assert notices.wait(1)
        assert not notices.wait(0), "all that came was taken in"
        directory.rename(tmp_path / "old")
        assert notices.wait(1)
        directory.mkdir()
        (directory / "two").write_text("x")
        assert not notices.wait(0), "it is another directory"
        notices.follow()
        (directory / "three").write_text("x")
        assert notices.wait(1)
        before = notices.fileno()
        notices.follow()
        assert notices.fileno() == before, "the same directory goes on"
    finally:
        notices.close()
    with pytest.raises(PlatformError, match="cannot be watched: No such file"):
        DirectoryNotices(tmp_path / "missing")
