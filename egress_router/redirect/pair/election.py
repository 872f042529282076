"""keepalived as a child: its configuration written and checked, its role read, started again when it ends."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from ipaddress import IPv4Address

from egress_router.daemon.children import Child, Launch
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.errors import PlatformError, ToolFailed
from egress_router.net.process import run_tool
from egress_router.redirect.pair.keepalived import Place, keepalived_conf, told_role
from egress_router.redirect.pair.values import PairConfig, Role

#: Before it is started again.
RESTART_SECONDS = 1.0
#: It sends its last advert, of priority 0, and ends.
STOP_SECONDS = 0.5
_LOOK_SECONDS = 0.01


class Election:
    """Runs keepalived and calls ``changed`` with a role and what it came from, in the loop."""

    def __init__(self, pair: PairConfig, loop: Loop, changed: Callable[[Role, str], None]) -> None:
        self._place = Place(pair.directory / "pair")
        self._pair = pair
        self._loop = loop
        self._changed = changed
        self._child: Child | None = None
        self._fifo = -1
        self._partial = b""
        self._tracked: dict[str, bool] = {}
        #: Files that could not be written to.
        self._untold: set[str] = set()
        self._stopped = False
        #: How often it was started again.
        self.restarts = 0

    def prepare(self, interface: str, source: IPv4Address, identity: IPv4Address, tracked: str | None = None) -> None:
        """Write the files and have keepalived judge them. Raises PlatformError."""
        place = self._place
        if shutil.which(place.command[0]) is None:
            raise PlatformError(
                f"{place.command[0]}, by which EGRESS_PAIR elects who has the address, is not installed; the image "
                "egress-router-init has it (docs/pair.md, What it needs)"
            )
        text = keepalived_conf(self._pair, interface, source, identity, place, tracked)
        try:
            place.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            place.configuration.write_text(text)
            for file in (place.gateways, place.blocked):
                file.write_text("0\n")
            for file in (place.fifo, *place.pids):
                # What a killed one has left.
                file.unlink(missing_ok=True)
            os.mkfifo(place.fifo, 0o600)
            # For writing as well: the last writer that goes is no end.
            self._fifo = os.open(place.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise PlatformError(
                f"keepalived's files cannot be written to {place.directory}: {error.strerror}; mount an emptyDir at "
                f"{self._pair.directory}, or name another directory with EGRESS_RUN_DIR"
            ) from error
        try:
            run_tool(place.check_command)
        except ToolFailed as error:
            raise PlatformError(f"keepalived refuses {place.configuration}: {error}") from error

    def start(self) -> None:
        """Take part in the election from now on."""
        if self._stopped:
            return
        self._loop.add_reader(self._fifo, self._read_roles)
        self._spawn()

    def start_again(self, why: str) -> None:
        """Have keepalived end, and start it again as a standby."""
        child = self._child
        if child is None:
            return
        LOGGER.warning("keepalived starts again: %s", why)
        child.signal(signal.SIGTERM)
        self._loop.call_later(STOP_SECONDS, child.kill_all)

    def track(self, *, gateways: bool, blocked: bool) -> None:
        """Tell it whether a gateway is missed, and whether the address must not be taken."""
        for file, value in ((self._place.gateways, gateways), (self._place.blocked, blocked)):
            if self._tracked.get(file.name, False) is value:
                continue
            try:
                # In the place of the other figure: a full disk has room for that.
                with file.open("r+b", buffering=0) as own:
                    own.write(f"{int(value)}\n".encode())
            except OSError as error:
                # It is tried again at the next question to a gateway.
                if file.name not in self._untold:
                    LOGGER.error("keepalived cannot be told %d for %s: %s", value, file.name, error.strerror)
                self._untold.add(file.name)
            else:
                self._tracked[file.name] = value
                self._untold.discard(file.name)

    def stop(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Take part no more. Whoever else is there hears of it at once, and takes over. ``meanwhile`` is called again
        and again while keepalived says so, and ends.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._fifo >= 0:
            self._loop.remove(self._fifo)
            os.close(self._fifo)
            self._fifo = -1
        child = self._child
        if child is None:
            return
        self._child = None
        self._loop.remove(child.output)
        child.signal(signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        while not _reaped(child) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
            meanwhile()
        # The one that sends adverts (2.2.7) may hang when it is to end and its interface was made anew. What the kernel
        # itself keeps is not waited for.
        child.kill_all()
        end += STOP_SECONDS
        while not _reaped(child) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        child.close()

    def _spawn(self) -> None:
        if self._stopped:
            return
        try:
            child = Child(Launch(self._place.command, name="keepalived"), 0)
        except OSError as error:
            LOGGER.error("keepalived cannot be started: %s", error.strerror)
            self._loop.call_later(RESTART_SECONDS, self._spawn)
            return
        self._child = child
        self._loop.add_reader(child.output, lambda: self._read_output(child))

    def _read_output(self, child: Child) -> None:
        # It may have been stopped in the same turn of the loop.
        if child is self._child and not child.read_lines(_said):
            # Both of its processes are gone, or about to be.
            self._loop.remove(child.output)
            self._ended(child)

    def _ended(self, child: Child) -> None:
        if child is not self._child:
            return
        child.kill_all()
        if not _reaped(child):
            self._loop.call_later(_LOOK_SECONDS, lambda: self._ended(child))
            return
        child.close()
        self._child = None
        self.restarts += 1
        LOGGER.error("keepalived %s", child.reason())
        # Nobody hears of us any more, so somebody else takes over.
        self._changed(Role.STANDBY, "keepalived has ended")
        self._loop.call_later(RESTART_SECONDS, self._spawn)

    def _read_roles(self) -> None:
        if self._stopped:
            return
        try:
            data = os.read(self._fifo, 4096)
        except BlockingIOError:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            role = told_role(line.decode(errors="replace"))
            # What one that has ended had said last is no role any more.
            if role is not None and self._child is not None:
                self._changed(role, "")


def _reaped(child: Child) -> bool:
    if child.status is None:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            child.ended(status)
    return child.status is not None


def _said(line: str) -> None:
    # It writes the time in front of each.
    _, _, text = line.partition(": ")
    LOGGER.log(logging.DEBUG, "keepalived: %s", text or line)
