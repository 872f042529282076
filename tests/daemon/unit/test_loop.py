"""The order of what the event loop does, and what becomes of errors."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from egress_router.daemon.loop import TURN_SECONDS, Loop
from tests.support.fake_loop import FakeClock, fake_loop


def test_timers_come_in_the_order_of_their_time() -> None:
    clock = FakeClock(0.0)
    loop, calls = fake_loop(clock), list[tuple[str, float]]()

    def note(name: str) -> None:
        calls.append((name, clock.now))

    loop.call_later(3.0, lambda: note("late"))
    loop.call_later(0.5, lambda: note("soon"))
    loop.call_later(1.0, lambda: note("cancelled")).cancel()
    every = loop.every(2.0, lambda: note("every"))
    while clock.now < 4.5:
        loop.turn()
    every.cancel()
    while clock.now < 9.0:
        loop.turn()
    assert calls == [("every", 0.0), ("soon", 0.5), ("every", 2.0), ("late", 3.0), ("every", 4.0)]


def test_a_delay_is_not_made_up_for() -> None:
    clock = FakeClock(0.0)
    loop, calls = fake_loop(clock), list[float]()
    loop.every(1.0, lambda: calls.append(clock.now))
    loop.turn()
    clock.now = 10.5
    loop.turn()
    loop.turn()
    loop.turn()
    assert calls[:2] == [0.0, 10.5]
    assert len(calls) <= 4
    assert calls == sorted(calls)


def test_what_is_posted_comes_before_descriptors_and_timers() -> None:
    loop, calls = fake_loop(), list[str]()
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")

    def post_again() -> None:
        calls.append("posted")
        loop.post(lambda: calls.append("posted later"))

    loop.call_later(0.0, lambda: calls.append("timer"))
    loop.add_reader(read_end, lambda: calls.append(f"read {os.read(read_end, 1).decode()}"))
    loop.post(post_again)
    loop.turn()
    assert calls == ["posted", "read x", "timer"]
    loop.turn()
    assert calls[3:] == ["posted later"]
    loop.remove(read_end)
    os.write(write_end, b"y")
    loop.turn()
    assert calls[4:] == []
    os.close(read_end)
    os.close(write_end)


def test_a_turn_waits_no_longer_than_until_and_a_second() -> None:
    clock = FakeClock(0.0)
    loop = fake_loop(clock)
    loop.turn(until=0.25)
    assert clock.now == 0.25
    loop.turn(until=100.0)
    assert clock.now == 0.25 + TURN_SECONDS
    loop.turn(until=0.0)
    assert clock.now == 0.25 + TURN_SECONDS, "a time that is over is not waited for"


def test_what_an_action_raises_comes_out() -> None:
    loop = fake_loop()

    def fail() -> None:
        raise RuntimeError("unforeseen")

    loop.post(fail)
    with pytest.raises(RuntimeError, match="unforeseen"):
        loop.run()


def test_another_thread_can_end_it() -> None:
    for end in (Loop.stop, lambda loop: loop.fail(RuntimeError("ended"))):
        loop = Loop()
        threading.Timer(0.05, end, [loop]).start()
        if end is Loop.stop:
            loop.run()
        else:
            with pytest.raises(RuntimeError, match="ended"):
                loop.run()
        loop.close()
        loop.post(loop.stop)


def test_signals_are_taken_in_the_loop_and_handlers_put_back() -> None:
    loop, calls = Loop(), list[str]()
    before = signal.getsignal(signal.SIGUSR1)

    def caught(number: signal.Signals) -> None:
        calls.append(number.name)
        loop.stop()

    loop.on_signal(signal.SIGUSR1, caught)
    with loop.catching_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.post(lambda: calls.append("posted"))
        loop.run()
    assert calls == ["SIGUSR1", "posted"]
    assert signal.getsignal(signal.SIGUSR1) is before
    loop.close()


@pytest.mark.parametrize("again", [False, True])
def test_a_descriptor_that_was_removed_in_the_same_turn_is_not_called(again: bool) -> None:
    """It may be closed, or be somebody else's by then, who is called when there is something for him."""
    loop, calls = fake_loop(), list[str]()
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")
    loop.add_reader(read_end, lambda: calls.append("old"))

    def remove() -> None:
        loop.remove(read_end)
        if again:
            loop.add_reader(read_end, lambda: calls.append(os.read(read_end, 1).decode()))

    loop.post(remove)
    loop.turn()
    assert calls == []
    loop.turn()
    assert calls == ["x"] * again
    os.close(read_end)
    os.close(write_end)
