"""Squid as an engine of the supervisor."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2 import IPRoute

from egress_router.config.http_policy import VARIABLE, parse_http_policy
from egress_router.config.inputs import Inputs, Problems
from egress_router.errors import PlatformError, ToolFailed, TryAgainError
from egress_router.model.http_policy import Address, HttpPolicy, HttpSettings
from egress_router.model.http_rules import CompiledPolicy
from egress_router.plan.http_compile import compile_policy
from egress_router.plan.http_shadow import shadow_warnings
from egress_router.proxy.access_log import AccessLog, Translator
from egress_router.proxy.child import Child, Launch
from egress_router.proxy.http_tally import HttpTally
from egress_router.proxy.log_output import LogOutput
from egress_router.proxy.reuseport import Guard, listen_address
from egress_router.proxy.sockets import clients, listeners, listens
from egress_router.proxy.squid_manager import SquidManager
from egress_router.render.squid import SquidPlace, render_squid

log = logging.getLogger(__name__)

PROGRAM = "squid"
#: Service names, and so the names of segments in /dev/shm, begin like this.
SERVICE_PREFIX = "egressrouter"
#: Seconds between the start of a successor and the end of listening: connections that were accepted but have not
#: sent their request yet would be closed by Squid's shutdown.
SETTLE = 2.0
#: Seconds between two looks at a draining Squid's connections.
LOOK = 0.2
CHECK_TIMEOUT = 120.0
#: Squid shrugs off sets that it does not understand as we do; we do not.
REFUSED = re.compile(r"FATAL|ERROR|is ignored to keep splay tree|is a subdomain of|Bungled|aclParse")
_STAMP = re.compile(r"^[0-9/]+ [0-9:]+(?: kid[0-9]+)?\| ?")


@dataclass(frozen=True, slots=True)
class SquidConfiguration:
    """One generation: the policy, its compiled form, and the files, which may be written anew at any time."""

    policy: HttpPolicy
    compiled: CompiledPolicy
    directory: Path
    files: dict[str, str]


@dataclass(slots=True)
class _State:
    """What the engine remembers of a child."""

    service: str
    directory: Path
    access_log: AccessLog
    told: bool = False
    next_look: float = 0.0
    quiet: int = 0


@dataclass(slots=True)
class SquidEngine:
    """Runs Squid for the policy that ``load`` reads.

    ``directory`` is writable; ``output`` takes the access log (None: it is off), ``tally`` counts it in any case.
    ``secret`` opens the cache manager to us.
    """

    settings: HttpSettings
    load: Callable[[], Inputs]
    directory: Path
    output: LogOutput | None
    tally: HttpTally = field(default_factory=HttpTally)
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    program: str = PROGRAM
    name: str = "squid"
    _states: dict[int, _State] = field(default_factory=dict)
    manager: SquidManager = field(init=False)
    _guard: Guard | None = None
    _next: _State | None = None

    def __post_init__(self) -> None:
        self.manager = SquidManager(self.settings.port, self.secret)

    def probe(self) -> list[str]:
        """Return why Squid does not accept connections now; nothing when it does. Called from any thread."""
        try:
            self.manager.page("idns")
        except TryAgainError as error:
            return [str(error)]
        return []

    def watched(self) -> Iterable[Path]:
        """Return the file of the policy, if there is one."""
        path = self.load().value(VARIABLE + "_FILE")
        return [Path(path)] if path else []

    def prepare(self, generation: int) -> SquidConfiguration:
        """Parse, compile, render and let Squid itself check. ConfigurationError or ToolFailed say what is wrong."""
        problems = Problems()
        policy = parse_http_policy(self.load(), problems, required=True)
        problems.raise_if_any()
        if policy is None:
            raise PlatformError("no policy and no problem")
        for warning in (*problems.warnings, *shadow_warnings(policy)):
            log.warning("%s", warning)
        compiled = compile_policy(policy, own_addresses())
        directory = self.directory / f"generation-{generation}"
        listen = listen_address()
        ipv6 = ":" in listen
        address = f"[{listen}]" if ipv6 else listen
        place = SquidPlace(directory=str(directory), listen=address, ipv6=ipv6, secret=self.secret)
        files = render_squid(compiled, self.settings, place)
        configuration = SquidConfiguration(policy, compiled, directory, files)
        write_files(directory, files)
        try:
            check(self.program, directory / "squid.conf")
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return configuration

    def launch(self, prepared: SquidConfiguration, previous: Child | None) -> Launch:
        """Return the command of one Squid in the foreground, without helpers, under a name nobody had before."""
        write_files(prepared.directory, prepared.files)
        remove_segments(state.service for state in self._states.values())
        service = SERVICE_PREFIX + secrets.token_hex(4)
        access_log = AccessLog(Translator(prepared.policy, prepared.compiled), self.tally, self.output)
        self._next = _State(service, prepared.directory, access_log)
        self._close_guard()
        if previous is None:
            self._make_guard()
        command = (self.program, "-N", "-n", service, "-f", str(prepared.directory / "squid.conf"))
        return Launch(command, stdout=access_log.write_end)

    def _make_guard(self) -> None:
        try:
            self._guard = Guard(listen_address(), self.settings.port)
        except PermissionError as error:
            raise PlatformError(
                f"port {self.settings.port} cannot be bound without privilege; choose another EGRESS_HTTP_PROXY_PORT "
                "or lower the pod's sysctl net.ipv4.ip_unprivileged_port_start"
            ) from error
        except OSError as error:
            raise PlatformError(f"port {self.settings.port} cannot be listened on: {error.strerror}") from error

    def _close_guard(self) -> None:
        if self._guard:
            self._guard.close()
            self._guard = None

    def ready(self, child: Child, prepared: SquidConfiguration) -> bool:
        """Return whether Squid listens. It says "Accepting HTTP Socket connections" a little too early."""
        state = self._state(child)
        state.access_log.started()
        if not listens(child.pid, self.settings.port):
            return False
        self._close_guard()
        return True

    def _state(self, child: Child) -> _State:
        if child.pid not in self._states and self._next:
            self._states[child.pid], self._next = self._next, None
        return self._states[child.pid]

    def retire(self, child: Child, final: bool) -> None:
        """Let Squid finish: at once when the container stops, else when its last new connections have settled."""
        if final:
            self._tell(child)

    def _tell(self, child: Child) -> None:
        self._state(child).told = True
        child.signal(signal.SIGTERM)

    def finished(self, child: Child, seconds: float) -> bool:
        """Return whether a retired Squid has no client any more (seen twice)."""
        state = self._state(child)
        now = time.monotonic()
        if now < state.next_look:
            return False
        state.next_look = now + LOOK
        if not state.told:
            if seconds >= SETTLE:
                self._tell(child)
            return False
        state.quiet = state.quiet + 1 if clients(child.pid, self.settings.port) == 0 else 0
        return state.quiet >= 2

    def may_replace(self) -> bool:
        """Return whether one Squid listens: the program of ``reuseport`` is made for two at most."""
        return listeners(self.settings.port) == 1

    def said(self, child: Child, line: str) -> None:
        """Log what Squid says; its chatter at debug level."""
        text = _STAMP.sub("", line)
        if "FATAL" in text or "ERROR" in text:
            log.error("squid: %s", text)
        elif "WARNING" in text and "requires the use of Via" not in text:
            log.warning("squid: %s", text)
        else:
            log.debug("squid: %s", text)

    def ended(self, child: Child) -> None:
        """Remove the files and segments of a Squid that is gone."""
        state = self._state(child)
        state.access_log.finish(2.0)
        del self._states[child.pid]
        remove_segments(other.service for other in self._states.values())
        if all(other.directory != state.directory for other in self._states.values()):
            shutil.rmtree(state.directory, ignore_errors=True)


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Write the files of a generation. PlatformError when the directory is not writable."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text)
    except OSError as error:
        raise PlatformError(
            f"{directory} cannot be written ({error.strerror}); mount an emptyDir there, or name another writable "
            "directory with EGRESS_RUN_DIR"
        ) from error


def check(program: str, conf: Path) -> None:
    """Have Squid parse a configuration. ToolFailed when it refuses it or understands it differently."""
    command = [program, "-N", "-k", "parse", "-f", str(conf)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT, check=False)
    except OSError as error:
        raise PlatformError(f"{program} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(command, "timeout", f"no answer within {CHECK_TIMEOUT:g} s") from error
    said = [_STAMP.sub("", line) for line in (result.stdout + result.stderr).splitlines()]
    wrong = [line for line in said if not line.startswith("Processing") and REFUSED.search(line)]
    if result.returncode or wrong:
        raise ToolFailed(command, result.returncode, "\n".join(wrong or said[-5:]))


def own_addresses() -> tuple[Address, ...]:
    """Return every address of this network namespace."""
    from ipaddress import ip_address

    with IPRoute() as route:
        found = {message.get("IFA_LOCAL") or message.get("IFA_ADDRESS") for message in route.get_addr()}
    return tuple(sorted((ip_address(text) for text in found if text), key=lambda address: (address.version, address)))


def remove_segments(living: Iterable[str], directory: Path = Path("/dev/shm")) -> None:  # noqa: S108  # Linux fixes it
    """Remove shared memory that a killed Squid of ours left: the next one dies with "File exists" over it."""
    alive = set(living)
    for path in directory.glob(SERVICE_PREFIX + "*"):
        if path.name.partition("-")[0] not in alive:
            with contextlib.suppress(OSError):
                path.unlink()


def become_unprivileged(directory: Path, uid: int = 1001) -> None:
    """Give up root, if we are root: Squid refuses to run as root and would look for a user by name instead.

    PlatformError when that is not permitted.
    """
    if os.geteuid() != 0:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.chown(directory, uid, 0)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise PlatformError(
            f"running as root without being able to give it up ({error.strerror}); set runAsUser to any other number"
        ) from error
