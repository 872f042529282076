"""``egress-router init``: read the environment, make the pod an egress router, exit (or stay, in legacy mode)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping

from egress_router.config.inputs import Problems, load_inputs
from egress_router.config.known import warn_unknown
from egress_router.config.log import parse_log
from egress_router.config.router import parse_router
from egress_router.errors import ConfigurationError
from egress_router.model.router import Mode
from egress_router.runtime.log import LOGGER, set_up_log
from egress_router.runtime.router import set_up


def run_init(env: Mapping[str, str]) -> int:
    """Set up what ``env`` says and return 0; in legacy mode only after SIGTERM or SIGINT. Raises EgressRouterError."""
    inputs = load_inputs(env)
    problems = Problems()
    set_up_log(parse_log(inputs, problems, terminal=sys.stderr.isatty()))
    config = parse_router(inputs, problems)
    warn_unknown(inputs, problems)
    if config is None or problems.errors:
        raise ConfigurationError(problems.errors)
    for warning in problems.warnings:
        LOGGER.warning("%s", warning)
    if config.mode is Mode.LEGACY:
        # Blocked from here on, so that a signal during the set-up is not lost; sigwait takes it afterwards.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    set_up(config)
    if config.mode is Mode.LEGACY:
        LOGGER.info("staying until SIGTERM (EGRESS_ROUTER_MODE=legacy)")
        received = signal.sigwait((signal.SIGTERM, signal.SIGINT))
        LOGGER.info("%s: leaving; the rules stay as long as the pod", signal.Signals(received).name)
    return 0
