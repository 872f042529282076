"""Squid as an engine of the supervisor."""

from __future__ import annotations

import logging
import math
import os
import re
import resource
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from egress_router.config.inputs import Inputs, Problems
from egress_router.daemon.children import Child, Launch
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.log import LogOutput, log_warnings
from egress_router.daemon.page.refusals import Refusals
from egress_router.daemon.page.view import ListHistory
from egress_router.daemon.sockets import clients, listeners, listens
from egress_router.errors import PlatformError, TryAgainError
from egress_router.http_proxy.parent import VARIABLE as PARENT
from egress_router.http_proxy.parent import Parent, parse_parent
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.access_log import AccessLog, RequestStats
from egress_router.http_proxy.squid.config import (
    UNUSED,
    SquidPlace,
    clients_with,
    error_pages,
    render_squid,
    wanted_descriptors,
)
from egress_router.http_proxy.squid.dns_reasons import DnsReasons
from egress_router.http_proxy.squid.files import (
    PROGRAM,
    SERVICE_PREFIX,
    STAMP,
    check,
    keepalive_environment,
    released,
    remove_segments,
    require_openssl,
    unused_address,
    unused_certificate,
    write_files,
)
from egress_router.http_proxy.squid.idle_tunnels import IdleTunnels
from egress_router.http_proxy.squid.ipv4_only import without_ipv6
from egress_router.http_proxy.squid.log_line import RuleAttributor
from egress_router.http_proxy.squid.manager import SquidManager
from egress_router.http_proxy.squid.reuseport import Guard
from egress_router.http_proxy.squid.workers import listen_address
from egress_router.policy.compile import compile_policy
from egress_router.policy.compiled import CompiledPolicy
from egress_router.policy.parse import VARIABLE, parse_policy
from egress_router.policy.shadowed import shadow_warnings
from egress_router.policy.values import Address, Network, Policy

log = logging.getLogger(__name__)

#: Seconds between the start of a successor and the end of listening, for connections that were on their way.
SETTLE = 2.0
#: Squid forgets what it asked DNS when it gives up the port, and denies the requests that wait for it. So that is put
#: off until none does, for at most so many seconds: a name server that never answers takes sixteen (dns_timeout).
RESOLVE = 20.0
#: The same when the container stops, when Squid would answer them with 503; at most half of the time there is.
RESOLVE_FINALLY = 5.0
#: Seconds between two looks at a draining Squid's connections.
LOOK = 0.2


#: Warnings that say nothing: without Via, and when an unprivileged Squid starts a helper.
ORDINARY = re.compile(r"requires the use of Via|no_suid: setuid\(0\)")


@dataclass(frozen=True, slots=True)
class SquidConfiguration:
    """One generation: the policy, its compiled form, and the files, which may be written anew at any time."""

    policy: Policy
    compiled: CompiledPolicy
    directory: Path
    files: dict[str, str]
    parent: Parent | None = None


@dataclass(slots=True)
class _State:
    """What the engine remembers of a child: ``conf`` is its own file in ``directory``."""

    directory: Path
    conf: Path
    access_log: AccessLog
    manager: SquidManager
    listened: bool = False
    retired: bool = False
    final: bool = False
    ending: bool = False
    next_look: float = 0.0
    quiet: int = 0


@dataclass(slots=True)
class SquidEngine:
    """Runs ``workers`` Squids for the policy that ``load`` reads, in the pod that has the addresses ``own`` tells.

    ``directory`` is writable; ``output`` takes the access log (None: it is off), ``stats`` counts it in any case.
    ``secret`` opens the cache manager to us. The kernel spreads connections over the Squids. ``families`` lead outside
    where EGRESS_SOURCE does not say so, ``cluster`` tells what the routes send into the cluster, and ``reasons`` why
    names have no address. ``name_server`` is asked instead of the pod's own. ``ipv6`` is false where Squid shall not
    use it, even where the pod has it. ``heartbeats`` have those of the threads that read the access logs. ``in_force``
    is what clients get, ``listed`` what it changed, ``refusals`` who was denied what lately.
    """

    settings: HttpSettings
    load: Callable[[], Inputs]
    own: Callable[[], Iterable[Address]]
    directory: Path
    output: LogOutput | None
    stats: RequestStats = field(default_factory=RequestStats)
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    program: str = PROGRAM
    name: str = "squid"
    workers: int = 1
    families: tuple[int, ...] = (4, 6)
    ipv6: bool = True
    cluster: Callable[[], Iterable[Network]] = tuple
    reasons: DnsReasons | None = None
    name_server: str | None = None
    idle: IdleTunnels | None = None
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    in_force: SquidConfiguration | None = None
    listed: ListHistory = field(default_factory=ListHistory)
    refusals: Refusals = field(default_factory=Refusals)
    _states: dict[str, _State] = field(default_factory=dict)
    _guard: Guard | None = None

    def managers(self) -> list[SquidManager]:
        """Return the managers of the Squids in force. Called from any thread."""
        return [state.manager for state in list(self._states.values()) if state.listened and not state.retired]

    def probe(self) -> list[str]:
        """Return why some Squid does not accept connections now; nothing when all do. Called from any thread."""
        try:
            for manager in (SquidManager("127.0.0.1", self.settings.port, self.secret), *self.managers()):
                manager.page("idns")
        except TryAgainError as error:
            return [str(error)]
        return []

    def watched(self) -> Iterable[Path]:
        """Return the file of the policy, if there is one."""
        inputs = self.load()
        paths = [inputs.value(f"{variable}_FILE") for variable in (VARIABLE, PARENT)]
        return [Path(path) for path in paths if path]

    def prepare(self, generation: int) -> SquidConfiguration:
        """Parse, compile, render and let Squid itself check. ConfigurationError or ToolFailed say what is wrong."""
        problems = Problems()
        inputs = self.load()
        policy = parse_policy(inputs, problems, required=True)
        # Here too: a Secret may change.
        parent = parse_parent(inputs, problems)
        problems.raise_if_any()
        if policy is None:
            raise PlatformError("no policy and no problem")
        log_warnings([*problems.warnings, *shadow_warnings(policy)])
        if self.settings.connect_sni:
            require_openssl(self.program)
        cluster = tuple(self.cluster())
        compiled = compile_policy(policy, self.own(), cluster)
        directory = self.directory / f"generation-{generation}"
        listen = self._listen()
        ipv6 = ":" in listen
        share = replace(self.settings, max_clients=math.ceil(self.settings.max_clients / self.workers), parent=parent)
        place = SquidPlace(
            directory=str(directory),
            listen=f"[{listen}]" if ipv6 else listen,
            ipv6=ipv6,
            families=self.families,
            cluster=cluster,
            sni_helper=f"{sys.executable} -S {Path(__file__).parent / 'sni_helper.py'}",
            secret=self.secret,
            descriptors=self._descriptors(share, generation == 1),
            error_directory=str(directory / "errors"),
            name_server=self.name_server,
        )
        files = render_squid(compiled, share, place) | error_pages("errors")
        if share.connect_sni:
            # Squid with OpenSSL looks for the second beside its pages.
            files |= {UNUSED: unused_certificate(), "errors/error-details.txt": ""}
        configuration = SquidConfiguration(policy, compiled, directory, files, parent)
        write_files(directory, files)
        try:
            check(self.program, directory / "squid.conf")
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return configuration

    def _listen(self) -> str:
        return listen_address() if self.ipv6 else "0.0.0.0"  # noqa: S104  # clients are in other pods

    def _descriptors(self, share: HttpSettings, first: bool) -> int | None:
        """Return how many descriptors a Squid may have, and tell when those are too few; it would fail to get more."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if limit == resource.RLIM_INFINITY:
            return None
        if first and limit < wanted_descriptors(share):
            log.warning(
                "the container may open %d files a process (RLIMIT_NOFILE): enough for %d clients, not for "
                "EGRESS_HTTP_PROXY_MAX_CLIENTS=%d; more wait",
                limit,
                clients_with(limit) * self.workers,
                self.settings.max_clients,
            )
        return limit

    def launch(self, prepared: SquidConfiguration, previous: Child | None) -> list[Launch]:
        """Return the commands of Squids in the foreground, without helpers, under names nobody had before."""
        write_files(prepared.directory, prepared.files)
        remove_segments(self._states)
        self._close_guard()
        if previous is None:
            self._make_guard()
        attributor = RuleAttributor(prepared.policy, prepared.compiled, parent=prepared.parent is not None)
        return [self._launch(prepared, attributor) for _ in range(self.workers)]

    def _launch(self, prepared: SquidConfiguration, attributor: RuleAttributor) -> Launch:
        service = SERVICE_PREFIX + secrets.token_hex(4)
        host, port = unused_address()
        conf = prepared.directory / f"{service}.conf"
        write_files(prepared.directory, {conf.name: f"{prepared.files['squid.conf']}\nhttp_port {host}:{port}\n"})
        access_log = AccessLog(
            attributor,
            self.stats,
            self.output,
            self.reasons,
            self.idle,
            self.heartbeats,
            f"access-log of {service}",
            self.refusals,
        )
        manager = SquidManager(host, port, self.secret)
        self._states[service] = _State(prepared.directory, conf, access_log, manager)
        command: tuple[str, ...] = (self.program, "-N", "-n", service, "-f", str(conf))
        if not self.ipv6:
            command = without_ipv6(command)
        env = keepalive_environment(os.environ)
        if self.settings.connect_sni:
            # Squid runs its helper under another name, from which Python would not find its library.
            env = {**(env or os.environ), "PYTHONHOME": sys.base_prefix}
        return Launch(command, service, env, stdout=access_log.write_end)

    def _make_guard(self) -> None:
        try:
            self._guard = Guard(self._listen(), self.settings.port, self.workers)
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
        state = self._states[child.name]
        state.access_log.started()
        if not listens(child.pid, self.settings.port):
            return False
        state.listened = True
        self._close_guard()
        if self.in_force is not prepared:
            self.in_force = prepared
            self.listed.take(line.text for line in prepared.policy.lines)
        return True

    def retire(self, child: Child, final: bool) -> None:
        """Let Squid finish (``finished`` tells it to): when its last new connections have settled, or the container
        stops, and no request waits for DNS.
        """
        state = self._states[child.name]
        state.retired, state.final = True, final

    def _may_be_ended(self, state: _State, seconds: float) -> bool:
        settle, resolve = (0.0, min(RESOLVE_FINALLY, self.settings.grace / 2)) if state.final else (SETTLE, RESOLVE)
        if seconds < settle:
            return False
        return seconds >= settle + resolve or not state.manager.resolving()

    def _end(self, child: Child) -> None:
        self._states[child.name].ending = True
        child.signal(signal.SIGTERM)

    def _release(self, child: Child) -> None:
        """Have Squid give up the port, and end each kept connection with the answer to its next request.

        Its shutdown would answer requests on such connections with 503, or close them under a request on its way.
        """
        state = self._states[child.name]
        try:
            state.conf.write_text(released(state.conf.read_text()))
        except OSError as error:
            log.warning("%s cannot be written (%s): kept connections are closed", state.conf, error.strerror)
            self._end(child)
            return
        state.ending = True
        child.signal(signal.SIGHUP)

    def finished(self, child: Child, seconds: float) -> bool:
        """Return whether a retired Squid has no client any more (seen twice)."""
        state = self._states[child.name]
        now = time.monotonic()
        if now < state.next_look:
            return False
        state.next_look = now + LOOK
        if not state.ending:
            if self._may_be_ended(state, seconds):
                (self._end if state.final else self._release)(child)
            return False
        state.quiet = state.quiet + 1 if clients(child.pid, self.settings.port) == 0 else 0
        return state.quiet >= 2

    def may_replace(self) -> bool:
        """Return whether one generation listens: the program of ``reuseport`` is made for two at most."""
        return listeners(self.settings.port) <= self.workers

    def on_output(self, child: Child, line: str) -> None:
        """Log what Squid says; its chatter at debug level."""
        text = STAMP.sub("", line)
        if "FATAL" in text or "ERROR" in text:
            log.error("squid: %s", text)
        elif "WARNING" in text and not ORDINARY.search(text):
            log.warning("squid: %s", text)
        else:
            log.debug("squid: %s", text)

    def ended(self, child: Child) -> None:
        """Remove the files and segments of a Squid that is gone."""
        state = self._states.pop(child.name)
        state.access_log.finish(2.0)
        if any(not other.listened for other in self._states.values()) and listeners(self.settings.port) == 0:
            # It died while its successors started, and the group of sockets went with it.
            try:
                self._make_guard()
            except PlatformError as error:
                log.warning("%s", error)
        remove_segments(self._states)
        if all(other.directory != state.directory for other in self._states.values()):
            shutil.rmtree(state.directory, ignore_errors=True)
