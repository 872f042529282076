"""Files that change in all the ways in which files change under a container."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from egress_router.daemon import file_watch
from egress_router.daemon.file_watch import DirectoryNotices, Identity, Watch, identify, identify_all
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads
from egress_router.errors import PlatformError
from tests.support.fake_loop import FakeClock


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


def test_a_file_system_that_does_not_answer_stops_the_looks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    answers.set()
    asked = threading.Event()

    def slow(path: Path) -> Identity:
        asked.set()
        assert answers.wait(20)
        return identify(path)

    path = tmp_path / "list"
    path.write_text("old")
    monkeypatch.setattr(file_watch, "identify", slow)
    monkeypatch.setattr(file_watch, "LATE_SECONDS", 0.3)
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    loop = Loop(heartbeats=Heartbeats(clock))
    threads = Threads(loop)
    seen: list[bool] = []

    def turn_until(what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not what():
            assert time.monotonic() < deadline
            began = time.monotonic()
            loop.turn(loop.now() + 0.05)
            assert time.monotonic() - began < 5

    watch = Watch([path])
    watch.follow(threads, loop, 0.02, seen.append)
    turn_until(lambda: False in seen)
    answers.clear()
    asked.clear()
    turn_until(asked.is_set)
    turn_until(lambda: "its file system does not answer" in caplog.text)
    clock.now += 1000.0
    loop.turn(loop.now())
    assert loop.heartbeats.stuck() == [], "a process that does its work goes on"
    assert "files: last heartbeat 1000.0 s ago" in loop.heartbeats.lines()
    del seen[:]
    path.write_text("something new")
    answers.set()
    turn_until(lambda: True in seen)
    turn_until(lambda: "its file system answers again" in caplog.text)
    assert seen.count(True) == 1
    assert caplog.text.count("does not answer") == 1
    watch.close()
    turn_until(lambda: "files" not in str(loop.heartbeats.lines()))
    loop.close()


def test_where_there_is_no_file_there_is_no_thread() -> None:
    loop = Loop()
    Watch([]).follow(Threads(loop), loop, 0.01, lambda _: None)
    assert "files" not in str(loop.heartbeats.lines())
    loop.close()


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
