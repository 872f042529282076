"""`init` and a list in a file that is refused: it waits for a mended one, at first for a moment, later for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egress_router.config.inputs import Inputs, Problems, load_inputs
from egress_router.errors import ConfigurationError, Problem
from egress_router.redirect import list_wait
from egress_router.redirect.config import parse_router
from egress_router.redirect.list_wait import files_to_mend, wait_until_mended

BASE = {"EGRESS_SOURCE": "192.0.2.46", "EGRESS_GATEWAY": "192.0.2.1", "EGRESS_ROUTER_MODE": "init"}
GOOD, BAD = "80 tcp 203.0.113.25\n", "80 tpc 203.0.113.25\n"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_wait, "FIRST_WAIT", 0.3)
    monkeypatch.setattr(list_wait, "LOOK_SECONDS", 0.01)


class Pod:
    """A list in a file, and what `init` reads."""

    def __init__(self, folder: Path, text: str, **env: str) -> None:
        self.file, self.mark = folder / "list", folder / "mark"
        self.file.write_text(text)
        self.env = {**BASE, "EGRESS_DESTINATION_FILE": str(self.file), **env}

    def read(self) -> str:
        problems = Problems()
        config = parse_router(load_inputs(self.env), problems)
        problems.raise_if_any()
        assert config is not None
        return " ".join(map(str, config.rules.all))

    def wait(self, mark: Path | None = None) -> str:
        """As `init` does once it has refused the list."""
        try:
            return self.read()
        except ConfigurationError as error:
            return wait_until_mended(load_inputs(self.env), self.read, error, mark)


@pytest.fixture
def later() -> Iterator[Callable[..., None]]:
    """Do something after some seconds."""
    timers: list[threading.Timer] = []

    def start(seconds: float, action: Callable[..., object], *arguments: object) -> None:
        timers.append(threading.Timer(seconds, action, arguments))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.join()


def test_a_mended_list_is_taken(tmp_path: Path, later: Callable[..., None]) -> None:
    pod = Pod(tmp_path, BAD)
    later(0.05, pod.file.write_text, "80 tpc 203.0.113.26\n")
    later(0.15, pod.file.write_text, GOOD)
    assert pod.wait(pod.mark) == "80 tcp 203.0.113.25"
    assert not pod.mark.exists(), "nothing is wrong any more"


def test_a_list_that_is_missing_is_waited_for(tmp_path: Path, later: Callable[..., None]) -> None:
    """A ConfigMap without the key, and then with it."""
    pod = Pod(tmp_path, GOOD)
    pod.file.unlink()
    later(0.1, pod.file.write_text, GOOD)
    assert pod.wait() == "80 tcp 203.0.113.25"


def test_the_first_ends_soon_with_the_message_and_the_next_waits_long(
    tmp_path: Path, later: Callable[..., None]
) -> None:
    pod = Pod(tmp_path, BAD, EGRESS_LIST_WAIT="30")
    begun = time.monotonic()
    with pytest.raises(ConfigurationError, match="line 1"):
        pod.wait(pod.mark)
    assert 0.3 <= time.monotonic() - begun < 10
    later(0.6, pod.file.write_text, GOOD)
    assert pod.wait(pod.mark) == "80 tcp 203.0.113.25", "longer than the first one waited"


def test_the_last_refusal_is_what_it_ends_with(tmp_path: Path, later: Callable[..., None]) -> None:
    pod = Pod(tmp_path, BAD)
    later(0.1, pod.file.write_text, "80 tcp 203.0.113.999\n")
    with pytest.raises(ConfigurationError, match=r"203\.0\.113\.999"):
        pod.wait()


def test_what_changed_before_it_was_watched_is_seen(tmp_path: Path) -> None:
    pod = Pod(tmp_path, GOOD)
    stale = ConfigurationError([Problem("EGRESS_DESTINATION_FILE", 1, "x", "is no rule")])
    assert wait_until_mended(load_inputs(pod.env), pod.read, stale, None) == "80 tcp 203.0.113.25"


@pytest.mark.parametrize(
    "env",
    [
        {"EGRESS_LIST_WAIT": "0"},
        {"EGRESS_GATEWAY": "192.0.2.46"},
        {"EGRESS_DESTINATION": GOOD},
        {"EGRESS_DESTINATION": BAD, "EGRESS_DESTINATION_FILE": ""},
        {"EGRESS_LIST_WAIT": "soon"},
    ],
    ids=["off", "something else is wrong", "both are set", "a variable", "how long is wrong"],
)
def test_what_no_file_can_mend_ends_at_once(tmp_path: Path, env: dict[str, str]) -> None:
    pod = Pod(tmp_path, BAD, **env)
    begun = time.monotonic()
    with pytest.raises(ConfigurationError):
        pod.wait(pod.mark)
    assert time.monotonic() - begun < 0.3


def test_only_files_that_are_named() -> None:
    inputs = Inputs({"EGRESS_DESTINATION_FILE": "/list"})
    listed, other = (Problem(name, 1, "x", "is wrong") for name in ("EGRESS_DESTINATION_FILE", "EGRESS_CHECK"))
    assert files_to_mend(inputs, [listed, listed]) == [Path("/list")]
    assert files_to_mend(inputs, [listed, other]) == []
    assert files_to_mend(inputs, []) == []
