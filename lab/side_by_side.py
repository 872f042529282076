"""Several pieces of work at the same time, each in a process of its own, with their lines told apart."""

from __future__ import annotations

import multiprocessing
import os
import selectors
from collections.abc import Callable, Mapping
from typing import Any

#: How many bytes of what a process prints are read at once.
CHUNK = 1 << 16


def side_by_side(work: Mapping[str, Callable[[], int]], output: Callable[[bytes], None]) -> dict[str, int]:
    """Run each piece in a child; return the exit codes that they gave or ended with, by label.

    Each line that one prints goes to ``output`` whole, behind its label. When this is interrupted, or told to exit, all
    get SIGTERM and are waited for.
    """
    # A copy of this process: nothing that was found out before has to be found out again.
    fork = multiprocessing.get_context("fork")
    started: dict[str, Any] = {}
    try:
        with selectors.DefaultSelector() as selector:
            for label, piece in work.items():
                read, write = os.pipe()
                process = fork.Process(target=_child, args=(piece, write), name=label)
                process.start()
                started[label] = process
                os.close(write)
                selector.register(read, selectors.EVENT_READ, (label, bytearray()))
            while selector.get_map():
                for key, _ in selector.select():
                    label, pending = key.data
                    chunk = os.read(key.fd, CHUNK)
                    pending += chunk
                    if not chunk:
                        selector.unregister(key.fd)
                        os.close(key.fd)
                        pending += b"\n" if pending else b""
                    *lines, rest = pending.split(b"\n")
                    pending[:] = rest
                    for line in lines:
                        output(b"%s | %s\n" % (label.encode(), line))
    except BaseException:
        for process in started.values():
            process.terminate()
        raise
    finally:
        for process in started.values():
            process.join()
    return {label: process.exitcode for label, process in started.items()}


def _child(piece: Callable[[], int], write: int) -> None:
    # Ctrl-C on the terminal is for the parent, which ends us.
    os.setsid()
    os.dup2(write, 1)
    os.dup2(write, 2)
    raise SystemExit(piece())
