"""``egress-router init``: read the environment, make the pod an egress router, exit (or stay, in legacy mode)."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

from egress_router.config.inputs import Problems, load_inputs, warn_unknown
from egress_router.config.settings import parse_log
from egress_router.daemon.log import LOGGER, log_warnings, set_up_log
from egress_router.errors import ConfigurationError, PlatformError
from egress_router.redirect.config import parse_router
from egress_router.redirect.connections import end_stale
from egress_router.redirect.nat import NatBackend
from egress_router.redirect.setup import set_up
from egress_router.redirect.values import Desired, Mode, RouterConfig


def run_init(env: Mapping[str, str]) -> int:
    """Set up what ``env`` says and return 0; in legacy mode do as ``egress-router run``. Raises EgressRouterError.

    Where nothing is wrong but a list in a file, it waits for a while until that changes.
    """
    # PID 1 hears no signal without a handler.
    signal.signal(signal.SIGTERM, _leave)
    try:
        config = _read(env)
    except ConfigurationError as error:
        # Imported here: an init container whose list is good needs none of it, and its pod waits.
        from egress_router.redirect.list_wait import pod_mark, wait_until_mended

        config = wait_until_mended(load_inputs(env), lambda: _read(env), error, pod_mark())
    if config.mode is Mode.LEGACY:
        # It stays, and may make cycles; the command line has switched this off for what is soon over.
        gc.enable()
        from egress_router.redirect.run import run_router

        return run_router(env)
    # The container that stays, `run`, takes the address when the pair says so, or when it is free.
    later = config.pair is not None or (config.mode is Mode.INIT and config.handover > 0)
    _end_stale(*set_up(config, later=later))
    return 0


def _read(env: Mapping[str, str]) -> RouterConfig:
    """Return the configuration; warnings are logged. Raises ConfigurationError."""
    inputs = load_inputs(env)
    problems = Problems()
    set_up_log(parse_log(inputs, problems, terminal=sys.stderr.isatty()))
    config = parse_router(inputs, problems)
    if config is not None and config.mode is Mode.LEGACY:
        # What else is wrong the router says that stays.
        return config
    warn_unknown(inputs, problems)
    if config is None or problems.errors:
        raise ConfigurationError(problems.errors)
    log_warnings(problems.warnings)
    return config


def _leave(number: int, _: FrameType | None) -> NoReturn:
    """End at once, and not with 0: the pod's containers must not start. What is there is what kill -9 would leave."""
    os._exit(128 + number)


def _end_stale(desired: Desired, backend: NatBackend) -> None:
    """End what former rules have made, in a pod where ``init`` runs again; the pod is a router without that, too."""
    try:
        ended = end_stale(desired, backend)
    except PlatformError as error:
        LOGGER.warning("connections of former rules, if there are any, go on until they end: %s", error)
    else:
        if ended:
            LOGGER.info("%d connections of former rules ended", ended)
