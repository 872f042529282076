"""A plugin and the runtime's side of it: what it hears, and that it answers whatever comes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from egress_router.daemon.threads import Threads
from egress_router.kubernetes.nri import Plugin, Sandbox
from egress_router.kubernetes.protobuf import written
from egress_router.kubernetes.ttrpc import RESPONSE, Message, framed
from lab.kubernetes.api_client import wait_until
from tests.support.fake_loop import fake_loop
from tests.support.fake_runtime import FakeRuntime, listening, listing, sandbox_message

ONE = Sandbox("s1", "uid-1", "shop", "one", (("app", "web"),), ("198.51.100.2", "2001:db8::2"))
TWO = Sandbox("s2", "uid-2", "shop", "two", (), ("198.51.100.3",))
ENDED = Sandbox("s3", "uid-3", "shop", "three", (), ("198.51.100.2",), stopped=True)


class Heard:
    """A Listener that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.error: Exception | None = None
        self.delay = 0.0
        self.in_place = True
        self.again = False
        self.changed = threading.Condition()

    def _note(self, what: str, of: object) -> None:
        with self.changed:
            self.told.append((what, of))
            self.changed.notify_all()

    def listed(self, sandboxes: Collection[Sandbox]) -> None:
        self._note("listed", [sandbox.id for sandbox in sandboxes])

    def started(self, sandbox: Sandbox) -> bool:
        if self.error is not None:
            raise self.error
        time.sleep(self.delay)
        self._note("started", sandbox)
        return self.in_place

    def stopped(self, sandbox: str) -> None:
        self._note("stopped", sandbox)

    def lost(self) -> None:
        if not self.told or self.told[-1][0] != "lost":
            self._note("lost", None)

    def turn(self) -> bool:
        again, self.again = self.again, False
        return again

    def until(self, *what: tuple[str, object]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.told[-len(what) :] == list(what), 10), self.told


class Scene:
    """A plugin, and the runtime that it finds."""

    def __init__(self, path: Path) -> None:
        self.path, self.heard = path / "nri.sock", Heard()
        self.log: list[str] = []
        self.threads = Threads(fake_loop())
        self.plugin = Plugin(self.path, self.heard, self.log.append, retry=0.01)

    def start(self) -> None:
        self.plugin.start(self.threads.start)

    def accepted(self, listener: socket.socket, cut: int = 1 << 20) -> FakeRuntime:
        return FakeRuntime(listener.accept()[0], cut)

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < end, self.log
            time.sleep(0.005)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.plugin.stop()


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_a_plugin_registers_and_hears_of_pods(scene: Scene, cut: int) -> None:
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener, cut)
        assert runtime.registered() == ("egress-router", "90")
        configured = runtime.call("Configure", written(2, "containerd") + written(5, 2000))
        assert configured == written(2, 7), "0 would be all events"
        assert runtime.call("Synchronize", listing([TWO, ENDED])) == b""
        assert scene.plugin.connected
        assert runtime.call("RunPodSandbox", written(1, sandbox_message(ONE))) == b""
        assert runtime.call("StopPodSandbox", written(1, sandbox_message(ONE))) == b""
        assert runtime.call("RemovePodSandbox", written(1, sandbox_message(ENDED))) == b""
        assert scene.heard.told == [("listed", ["s2"]), ("started", ONE), ("stopped", "s1"), ("stopped", "s3")]
        assert scene.plugin.calls == {"synchronize": 1, "run": 1, "stop": 1, "remove": 1}
        # It counts an answer when it has sent it, which is here by then.
        wait_until("all answers are counted", lambda: scene.plugin.answers == 5, 5.0)
        assert scene.plugin.trouble == ""


def test_older_runtimes_have_one_method_for_all_events(scene: Scene) -> None:
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener)
        runtime.begin()
        for event, of in ((1, ONE), (2, ONE), (3, ENDED), (11, TWO)):
            assert runtime.call("StateChange", written(1, event) + written(2, sandbox_message(of))) == b""
        assert scene.heard.told[1:] == [("started", ONE), ("stopped", "s1"), ("stopped", "s3")]


def test_a_list_in_parts_counts_when_it_is_whole(scene: Scene) -> None:
    many = [Sandbox(f"m{number}", f"u{number}", "shop", "x" * 100, (), ("198.51.100.9",)) for number in range(100)]
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener)
        runtime.registered()
        runtime.call("Configure")
        assert runtime.call("Synchronize", listing(many, more=True)) == written(2, 1), "go on"
        assert scene.heard.told == []
        assert not scene.plugin.connected
        assert runtime.call("Synchronize", listing([ONE])) == b""
        assert scene.heard.told == [("listed", [*(sandbox.id for sandbox in many), "s1"])]


def test_every_call_is_answered_with_nothing_wrong(scene: Scene) -> None:
    """An error would make the pod fail, and silence cost two seconds."""
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener)
        runtime.begin()
        scene.heard.error = RuntimeError("a mistake")
        assert runtime.call("RunPodSandbox", written(1, sandbox_message(ONE))) == b""
        scene.heard.error = None
        assert runtime.call("RunPodSandbox", b"\xff\xff") == b""
        assert runtime.call("RunPodSandbox", written(1, 5)) == b""
        assert runtime.call("CreateContainer", written(1, sandbox_message(ONE))) == b""
        assert runtime.call("Synchronize", b"\x0b") == b""
        assert runtime.call("Whatever", b"\x00") == b""
        assert scene.plugin.failures == 4
        assert "RuntimeError: a mistake" in scene.log[1]
        assert scene.plugin.connected


def test_a_slow_answer_comes_and_is_counted(scene: Scene) -> None:
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener)
        runtime.begin()
        scene.heard.delay, scene.heard.in_place = 0.1, False
        runtime.call("RunPodSandbox", written(1, sandbox_message(ONE)))
        assert scene.plugin.late == 1
        scene.until(lambda: scene.plugin.seconds >= 0.1)


@pytest.mark.parametrize(
    "wrong", [b"\0\0\0\7\0\0\0\0", b"\0\0\0\1\xff\xff\xff\xff", None], ids=["connection", "frame", "end"]
)
def test_a_runtime_that_goes_away_or_talks_nonsense_is_found_again(scene: Scene, wrong: bytes | None) -> None:
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener)
        runtime.begin(ONE)
        if wrong is None:
            runtime.connection.close()
        else:
            runtime.send(wrong)
        scene.heard.until(("listed", ["s1"]), ("lost", None))
        assert scene.plugin.trouble, "it was there"
        again = scene.accepted(listener)
        again.begin(TWO)
        scene.heard.until(("lost", None), ("listed", ["s2"]))
        assert scene.plugin.trouble == ""


def test_a_restarted_runtime_makes_its_socket_anew(scene: Scene) -> None:
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener)
        runtime.begin()
        listener.close()
        runtime.connection.close()
    scene.heard.until(("listed", []), ("lost", None))
    scene.until(lambda: "nobody listens there" in scene.plugin.trouble)
    with listening(scene.path) as listener:
        runtime = scene.accepted(listener)
        runtime.begin(ONE)
        scene.heard.until(("lost", None), ("listed", ["s1"]))


def test_the_list_is_asked_for_anew_by_another_connection(scene: Scene) -> None:
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener)
        runtime.begin(ONE)
        scene.heard.again = True
        again = scene.accepted(listener)
        with pytest.raises(EOFError):
            runtime.read()
        again.begin(TWO)
        assert scene.heard.told == [("listed", ["s1"]), ("listed", ["s2"])], "it was never lost"


def test_a_refused_registration_is_said(scene: Scene) -> None:
    with listening(scene.path) as listener:
        scene.start()
        runtime = scene.accepted(listener)
        asked = runtime.read()
        no = written(1, written(1, 3) + written(2, "invalid index"))
        runtime.send(framed(Message(2, asked.stream, RESPONSE, no)))
        scene.until(lambda: any("invalid index" in line for line in scene.log))


def test_where_nobody_has_ever_listened_is_no_trouble_unless_it_is_required(scene: Scene, tmp_path: Path) -> None:
    scene.start()
    scene.heard.until(("lost", None))
    assert (scene.plugin.trouble, scene.log) == ("", [])
    required = Plugin(tmp_path / "nri.sock", Heard(), scene.log.append, required=True, retry=0.01)
    required.start(scene.threads.start)
    scene.until(lambda: "nobody listens there" in required.trouble)
    scene.until(lambda: len(scene.log) == 1)
    required.stop()
