"""The kernel tells that the wall clock was set."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct

import pytest

from egress_router.daemon.clock import ClockSet

#: linux/timex.h: the clock is set by what is in ``time``, microseconds here. struct timex of 64 bits has the modes
#: first, and the time behind eight words.
ADJ_SETOFFSET = 0x100
TIMEX = struct.Struct("=I4x64x2q400x")


def set_by(seconds: int, microseconds: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.create_string_buffer(TIMEX.pack(ADJ_SETOFFSET, seconds, microseconds))) < 0:
        code = ctypes.get_errno()
        if code == errno.EPERM:
            pytest.skip("no CAP_SYS_TIME")
        raise OSError(code, os.strerror(code))


def told(clock_set: ClockSet, seconds: float = 0.0) -> bool:
    return bool(select.select([clock_set.fileno()], [], [], seconds)[0])


def test_each_time_is_told_once() -> None:
    """A microsecond forth, and one back."""
    with ClockSet() as clock_set:
        assert not told(clock_set, 0.1)
        for step in ((0, 1), (-1, 999_999)):
            set_by(*step)
            assert told(clock_set, 1.0)
            clock_set.seen()
            assert not told(clock_set)


def test_it_can_be_closed_twice() -> None:
    clock_set = ClockSet()
    clock_set.close()
    clock_set.close()
