"""``egress-router run``: set up as ``init`` does, then stay."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from egress_router.config.inputs import Problems, load_inputs
from egress_router.config.known import warn_unknown
from egress_router.config.log import parse_log
from egress_router.config.run import parse_run
from egress_router.endpoint.metrics import MetricsPage
from egress_router.endpoint.server import Answer, EndpointServer, json_page
from egress_router.errors import ConfigurationError
from egress_router.kernel.iptables_kept import KeptIptables
from egress_router.kernel.memory import give_back_memory, map_large_blocks
from egress_router.kernel.nftables import Nftables
from egress_router.kernel.nftables_child import ForkedNftables
from egress_router.proxy.watch import Watch
from egress_router.runtime.live import LiveRouter
from egress_router.runtime.log import LOGGER, set_up_log
from egress_router.runtime.loop import SIGNALS, Loop
from egress_router.runtime.metrics import RouterCollector
from egress_router.runtime.router import set_up
from egress_router.runtime.state import State


def run_router(env: Mapping[str, str]) -> int:
    """Be the egress router that ``env`` says until SIGTERM or SIGINT; return 0. Raises EgressRouterError."""
    map_large_blocks()
    path = env.get("EGRESS_DESTINATION_FILE", "").strip()
    # Before the file is read: what changes in between is seen as a change.
    watch = Watch([Path(path)] if path else [])
    inputs = load_inputs(env)
    problems = Problems()
    set_up_log(parse_log(inputs, problems, terminal=sys.stderr.isatty()))
    run = parse_run(inputs, problems)
    warn_unknown(inputs, problems)
    if run is None or problems.errors:
        raise ConfigurationError(problems.errors)
    for warning in problems.warnings:
        LOGGER.warning("%s", warning)
    # Blocked until the loop listens, so that a signal during the set-up is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    desired, backend = set_up(run.router)
    backend = ForkedNftables() if isinstance(backend, Nftables) else KeptIptables()
    give_back_memory()
    state = State(interface=desired.network.egress, turned=time.monotonic())
    live = LiveRouter(env, run.router, desired, backend, state)
    ended = live.end_stale()
    if ended:
        LOGGER.info("%d connections of former rules ended", ended)
    if run.router.health_port is not None:
        pages: dict[str, Callable[[], Answer]] = {
            "/metrics": MetricsPage(RouterCollector(live)),
            "/status": json_page(lambda: state.as_json(time.monotonic())),
        }
        EndpointServer(run.router.health_port, state, pages, remarks=state.remarks).start()
    port = run.router.health_port
    LOGGER.info("staying until SIGTERM; health on port %s", "none" if port is None else port)
    return Loop(run, live, watch).run()
