"""What the agent and the controller have in common as processes: log, signals, endpoint, the wait for objects."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from egress_router import __version__
from egress_router.config.inputs import Inputs, Problems
from egress_router.config.settings import parse_log
from egress_router.daemon.endpoint import Answer, Endpoint, HealthSource, json_page
from egress_router.daemon.exposition import Collector
from egress_router.daemon.log import LOGGER, set_up_log
from egress_router.daemon.loop import Loop
from egress_router.daemon.metrics import MetricsPage
from egress_router.daemon.threads import Threads
from egress_router.egressip.source.directory import ClusterSource
from egress_router.errors import ConfigurationError
from egress_router.kubernetes.client import Client
from egress_router.kubernetes.configuration import ApiConfiguration

#: A process that is logged to leave does so after that many seconds at the latest.
LEAVE_SECONDS = 0.9
#: Objects that could not be read are read again after so many seconds, and when they change.
_READ_AGAIN_SECONDS = 5.0


def set_up_log_from_environment() -> None:
    """Log as EGRESS_LOG_FORMAT and EGRESS_LOG_LEVEL say. Raises ConfigurationError."""
    problems = Problems()
    set_up_log(parse_log(Inputs(dict(os.environ)), problems, terminal=sys.stderr.isatty()))
    problems.raise_if_any()


@contextmanager
def running() -> Iterator[tuple[Loop, Threads]]:
    """Give a loop that SIGTERM and SIGINT stop, and its threads.

    Agent and controller leave everything in place, whatever they are doing: one that is stuck (in nft that waits for
    somebody, on a slow disk) ends LEAVE_SECONDS after the signal all the same.
    """
    loop = Loop()
    loop.at_once(lambda: _leave_if_stuck(loop))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(number, lambda _: loop.stop())
    threads = Threads(loop)
    with loop.catching_signals(), threads.owning_all():
        yield loop, threads


def api_client(api: ApiConfiguration, component: str) -> Client:
    """Return a client of the Kubernetes API that names this component to the server."""
    return Client(api, f"egress-router-{component}/{__version__}")


def _leave_if_stuck(loop: Loop) -> None:
    def leave() -> None:
        if not loop.stop_seen:
            LOGGER.warning("leaving in the middle of what is under way; the next one takes it over")
            logging.shutdown()
            os._exit(0)

    timer = threading.Timer(LEAVE_SECONDS, leave)
    timer.daemon = True
    timer.start()


def wait_for_objects(source: ClusterSource, loop: Loop) -> bool:
    """Wait until the objects can be read for the first time; until then the kernel stays as it is. Return False when
    the loop was stopped before.
    """
    logged = ""
    due = loop.now()

    def changed() -> None:
        nonlocal due
        source.wait(0)
        due = loop.now()

    loop.add_reader(source.fileno(), changed)
    try:
        while not loop.stopping:
            if loop.now() >= due:
                try:
                    source.read()
                except (ConfigurationError, OSError) as error:
                    if str(error) != logged:
                        logged = str(error)
                        LOGGER.error("%s", logged)
                    due = loop.now() + _READ_AGAIN_SECONDS
                else:
                    return True
            loop.turn(due)
    finally:
        loop.remove(source.fileno())
    return False


def serve(
    port: int,
    address: str,
    source: HealthSource,
    collector: Collector,
    status: Callable[[], object],
    threads: Threads,
    asked: Mapping[str, Callable[[str], Answer]] | None = None,
    hosts: Collection[str] = (),
) -> None:
    """Answer HTTP on this port, unless it is 0; ``asked`` and ``hosts`` are those of Endpoint. Raises PlatformError."""
    if port:
        pages: dict[str, Callable[[], Answer]] = {"/metrics": MetricsPage(collector), "/status": json_page(status)}
        Endpoint(port, source, pages, "--health-port", address, asked=asked, hosts=hosts).start(threads)
