"""HAProxy as an engine of the supervisor: the DNS proxy router.

A reload starts a new HAProxy beside the old one. It takes the listening sockets over from the old process
(``haproxy -x``, ``expose-fd listeners``), so that no connection waiting in them is lost; once it answers, the old one
gets SIGUSR1, stops listening and lives until its last connection ends.
"""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR1

from egress_router.config.values import Network
from egress_router.daemon.children import Child, Launch
from egress_router.daemon.heartbeat import Heartbeats
from egress_router.daemon.log import LAST_MESSAGES_SECONDS, LogOutput
from egress_router.daemon.new_ports import tell_new_ports
from egress_router.daemon.page.refusals import Refusals
from egress_router.daemon.page.view import ListHistory
from egress_router.daemon.sockets import can_listen
from egress_router.daemon.unprivileged import may_bind_low_ports
from egress_router.dns_proxy.by_name.router import RouterFigures
from egress_router.dns_proxy.destinations import DnsProxyConfig
from egress_router.dns_proxy.haproxy.config import ROUTE_LUA, render_haproxy, route_socket
from egress_router.dns_proxy.haproxy.log_pipe import ConnectionStats, LogPipe
from egress_router.dns_proxy.haproxy.runtime import RuntimeSocket
from egress_router.dns_proxy.haproxy.watcher import BackendWatcher
from egress_router.dns_proxy.names import DnsProxyState
from egress_router.errors import PlatformError, ToolFailed
from egress_router.policy.judge import Judge
from egress_router.policy.values import Policy


def require_low_ports(config: DnsProxyConfig) -> None:
    """Raise PlatformError when a port is below what this user may listen on."""
    first = first_unprivileged_port()
    low = [f"{item.port} (line {item.line})" for item in config.destinations if item.port < first]
    low += [f"{port} (by name)" for port in (config.by_name.ports if config.by_name else ()) if port < first]
    if not low or may_bind_low_ports():
        return
    lines = ", ".join(low[:5])
    raise PlatformError(
        f"this user may not listen on port {lines}: net.ipv4.ip_unprivileged_port_start is "
        f"{first}. The init container sets it with EGRESS_ROUTER_MODE=dns-proxy; the pod can too "
        '(spec.securityContext.sysctls: net.ipv4.ip_unprivileged_port_start="0")'
    )


def first_unprivileged_port() -> int:
    """Return the first port that any user of this network namespace may listen on."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


log = logging.getLogger(__name__)

HAPROXY = "haproxy"
#: Seconds that a new configuration may wait for the first answers for its names.
FIRST_ANSWERS = 5.0
RELOAD_ANSWERS = 2.0
CHECK_SECONDS = 30
#: How long HAProxy may take to say how it is.
PROBE_SECONDS = 2.0
_OWN_LOG = re.compile(r"\[(NOTICE|WARNING|ALERT)\]\s*\(\d+\) : (?:CLI : )?(.*)")
#: What HAProxy says whenever servers come and go; name_keeper tells it better.
_ROUTINE = re.compile(
    r"Server \S+ is (going DOWN for maintenance|UP/READY|UP, changed from CLI)|now enters maintenance"
    r"|New server registered|changed its IP|stopped \(cumulated|has no server available"
    r"|haproxy version is|path to executable"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked configuration and when it was prepared (monotonic seconds)."""

    config: DnsProxyConfig
    generation: int
    since: float
    judge: Judge | None = None


class HaproxyEngine:
    """Runs the configuration that ``read`` returns (it raises EgressRouterError when there is none), with the answers
    that ``watcher`` has.

    Files go to ``directory``, the access log to ``output`` (None: it is off), ``stats`` counts it in any case; a change
    of ``watch`` means a reload.
    """

    name = "haproxy"

    def __init__(
        self,
        read: Callable[[], DnsProxyConfig],
        watcher: BackendWatcher,
        directory: Path,
        *,
        watch: Iterable[Path] = (),
        output: LogOutput | None = None,
        heartbeats: Heartbeats | None = None,
        judge: Callable[[Policy], Judge] = Judge,
        cluster: Callable[[], Iterable[Network]] = tuple,
    ) -> None:
        """``judge`` makes what judges by a policy, in the pod as it is; ``cluster`` tells what its routes send into the
        cluster; ``heartbeats`` have those of the thread that reads the access log.
        """
        self._read = read
        self._watcher = watcher
        self._directory = directory
        self._watch = tuple(watch)
        self._judge = judge
        self._cluster = cluster
        self.output = output
        self.stats = ConnectionStats()
        self.refusals = Refusals()
        self._log = LogPipe(self.stats, output, _log_own, self._watcher.unreached, heartbeats, self.refusals)
        self.in_force: DnsProxyConfig | None = None
        self.judge_in_force: Judge | None = None
        self.listed = ListHistory()
        self._runtime: RuntimeSocket | None = None
        self._sockets: dict[int, Path] = {}
        self._ipv6 = can_listen("::")
        # What an earlier run of the container left: nothing of it is alive.
        for file in directory.glob("haproxy-*"):
            with contextlib.suppress(OSError):
                file.unlink()

    def close(self) -> None:
        """Stop the threads. The children have ended."""
        self._watcher.close()
        self._log.finish(LAST_MESSAGES_SECONDS)

    def watched(self) -> Iterable[Path]:
        """Return the file of EGRESS_DNS_PROXY_DESTINATION_FILE, if any."""
        return self._watch

    def prepare(self, generation: int) -> Prepared:
        """Read and check; names that are new with a reload get a moment for their first answers."""
        config = self._read()
        require_low_ports(config)
        self._watcher.follow(config.names)
        path = self._write("next", config)
        try:
            _check(path)
        finally:
            path.unlink(missing_ok=True)
        if self._sockets and not self._watcher.wait(config.names, RELOAD_ANSWERS):
            log.warning("some names have no answer yet; the new configuration starts without them")
        judge = self._judge(config.by_name.policy) if config.by_name else None
        return Prepared(config, generation, time.monotonic(), judge)

    def launch(self, prepared: Prepared, previous: Child | None) -> tuple[Launch]:
        """Return HAProxy in the foreground, with the servers known by now and the sockets of ``previous``."""
        path = self._write(str(prepared.generation), prepared.config)
        if prepared.judge:
            self._watcher.route(Path(route_socket(str(self._socket(str(prepared.generation))))), prepared.judge)
        command = [HAPROXY, "-db", "-f", str(path)]
        handed_over = self._sockets.get(previous.pid) if previous else None
        if handed_over:
            command += ["-x", str(handed_over)]
        return (Launch(tuple(command), stdout=self._log.write_end),)

    def ready(self, child: Child, prepared: Prepared) -> bool:
        """Whether this very process answers; the first one also waits a moment for answers to its names."""
        if child.pid not in self._sockets:
            path = self._socket(str(prepared.generation))
            try:
                if RuntimeSocket(path).pid() != child.pid:
                    return False
            except (OSError, ValueError):
                return False
            self._sockets[child.pid] = path
            self._watcher.attach(prepared.config, path)
        waited = time.monotonic() - prepared.since
        ready = waited > FIRST_ANSWERS or self._watcher.looked_up(prepared.config.names)
        if ready:
            runtime = RuntimeSocket(self._sockets[child.pid], PROBE_SECONDS)
            if self.in_force is not None:
                tell_new_ports(_listening(self.in_force), _listening(prepared.config))
            if self.in_force is not prepared.config:
                self.listed.take(_lines(prepared.config))
            self.in_force, self._runtime, self.judge_in_force = prepared.config, runtime, prepared.judge
            if prepared.judge:
                self._watcher.judge_by(prepared.judge)
        return ready

    def state(self) -> DnsProxyState | None:
        """Return how the names in force fare; None before there are any. Called from any thread."""
        config = self.in_force
        if config is None:
            return None
        return DnsProxyState(config, self._watcher.entries(), self._watcher.known(), self._watcher.failures)

    def routed(self) -> RouterFigures:
        """Return how the names that clients asked for fare. Called from any thread."""
        return self._watcher.routed()

    def info(self) -> dict[str, str]:
        """Return what ``show info`` says. Called from any thread; OSError when HAProxy does not answer."""
        if self._runtime is None:
            raise ConnectionError("it has not been in force yet")
        return self._runtime.info()

    def probe(self) -> list[str]:
        """Return why connections would not be served now; nothing when some would. Called from any thread."""
        state = self.state()
        found = ["no destination has an address"] if state and state.dead() else []
        try:
            info = self.info()
            if int(info["CurrConns"]) >= int(info["Maxconn"]):
                found.append(f"all {info['Maxconn']} connections are in use")
        except (OSError, ValueError, KeyError) as error:
            found.append(f"haproxy does not answer: {error}")
        return [*found, *filter(None, [self.routed().problem])]

    def warnings(self) -> list[str]:
        """Return which names have no address, a sentence each. Called from any thread."""
        state = self.state()
        return state.silent_names() if state else []

    def retire(self, child: Child, final: bool) -> None:
        """Have it stop listening and end with its last connection (management.txt, 4)."""
        child.signal(SIGUSR1)

    def finished(self, child: Child, seconds: float) -> bool:
        """Never: a retired HAProxy ends by itself."""
        return False

    def may_replace(self) -> bool:
        """Always: generations do not get in each other's way."""
        return True

    def on_output(self, child: Child, line: str) -> None:
        """Pass a remark on to the log."""
        _log_own(line)

    def ended(self, child: Child) -> None:
        """Remove its files."""
        path = self._sockets.pop(child.pid, None)
        if path:
            self._watcher.no_longer_route(Path(route_socket(str(path))))
            for file in (path, path.with_suffix(".cfg")):
                with contextlib.suppress(OSError):
                    file.unlink()

    def _socket(self, generation: str) -> Path:
        return self._directory / f"haproxy-{generation}.sock"

    def _write(self, generation: str, config: DnsProxyConfig) -> Path:
        path = self._socket(generation)
        text = render_haproxy(
            config,
            self._watcher.known(),
            socket=str(path),
            ipv6=self._ipv6,
            route_lua=ROUTE_LUA,
            cluster=tuple(self._cluster()),
        )
        log.debug("%s:\n%s", path.with_suffix(".cfg"), text)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.with_suffix(".cfg").write_text(text)
        except OSError as error:
            raise PlatformError(
                f"{self._directory} cannot be written: {error.strerror}; mount an emptyDir there"
            ) from error
        return path.with_suffix(".cfg")


def _lines(config: DnsProxyConfig) -> Iterator[str]:
    yield from map(str, config.destinations)
    if config.by_name:
        yield from (line.text for line in config.by_name.policy.lines)


def _listening(config: DnsProxyConfig) -> list[str]:
    return [f"{port}/tcp" for port in config.ports]


def _check(path: Path) -> None:
    """Have HAProxy check a file. Raises ToolFailed with what it says."""
    command = [HAPROXY, "-c", "-q", "-f", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    except FileNotFoundError as error:
        raise PlatformError(f"{HAPROXY} is not installed (Debian's package haproxy, 2.6 or newer)") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(command, f"no end after {CHECK_SECONDS} s", "") from error
    if done.returncode != 0:
        raise ToolFailed(command, done.returncode, done.stderr)


def _log_own(line: str) -> None:
    match = _OWN_LOG.match(line)
    level, text = (match[1], match[2]) if match else ("NOTICE", line)
    if _ROUTINE.search(text):
        log.debug("haproxy: %s", text)
    elif level == "ALERT":
        log.error("haproxy: %s", text)
    else:
        log.log(logging.WARNING if level == "WARNING" else logging.INFO, "haproxy: %s", text)
