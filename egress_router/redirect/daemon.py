"""A router that stays and the kernel: reload destinations, restore what got lost, cut what must not go on, leave.

Everything here waits for the kernel to be done, milliseconds as a rule; the loop decides when.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping

from egress_router.config.inputs import Problems, load_inputs
from egress_router.config.values import Address, HostName
from egress_router.daemon.log import LOGGER, log_warnings
from egress_router.daemon.new_ports import tell_new_ports
from egress_router.errors import ConfigurationError, EgressRouterError
from egress_router.net.conntrack import Connection
from egress_router.net.memory import give_back_memory
from egress_router.net.rtnetlink.values import Observed
from egress_router.records import replace
from egress_router.redirect.connections import end_stale, translated
from egress_router.redirect.desired import desired_state
from egress_router.redirect.nat import NatBackend
from egress_router.redirect.network_state import NetworkState
from egress_router.redirect.offload import LEAVING, OFF
from egress_router.redirect.pair.proxied import end_proxied, outward
from egress_router.redirect.plan import plan_translation
from egress_router.redirect.run_config import parse_run
from egress_router.redirect.setup import restore
from egress_router.redirect.state import State
from egress_router.redirect.values import Counters, Desired, FlowOffload, RouterConfig, Ruleset, Translation

#: A table of ten thousand destinations that was deleted would fill the log.
LOGGED_LINES = 100


class Reconciler:
    """Keeps a router as it shall be once it is set up. Its lock is held while the kernel is changed or read."""

    def __init__(
        self, env: Mapping[str, str], config: RouterConfig, desired: Desired, backend: NatBackend, state: State
    ) -> None:
        self._env = env
        self.config = config
        self.desired = desired
        self.backend = backend
        self.state = state
        self.lock = threading.Lock()
        #: Whether it may have its addresses at this moment, see ``restore``.
        self.may_hold: Callable[[], bool] = lambda: True
        self._never_offloads = desired.translation.offload is FlowOffload.OFF
        self._answers: dict[HostName, tuple[Address, ...]] = {}
        self._counted: dict[str, Counters] = {}
        state.follow(config.rules.names, only=not config.rules.addressed)
        state.listed.take(map(str, config.rules.all))

    def reload(self) -> None:
        """Read the destinations anew and put them in place; when they cannot be used the old ones stay."""
        try:
            rules = self._read_rules()
            with self.lock:
                config = replace(self.config, rules=rules)
                answers = {name: found for name, found in self._answers.items() if name in rules.names}
                translation = plan_translation(config, self.desired.network, answers)
                self._prepare_to_hold(translation)
                changed = self.backend.apply(translation)
                before, self.config, self._answers = self.config.rules, config, answers
                self.desired = replace(self.desired, translation=translation)
                ended = self.end_stale() if changed else 0
        except EgressRouterError as error:
            self.state.reload_failures += 1
            self.state.reload_error = str(error)
            LOGGER.error("reload refused, the destinations in force stay: %s", error)
            return
        self.state.follow(rules.names, only=not rules.addressed)
        self.state.reloads += 1
        self.state.reload_error = ""
        self.state.last_reload = time.time()
        self.state.listed.take(map(str, rules.all))
        give_back_memory()
        what = "changed" if changed else "as they were"
        LOGGER.info("reload: %d destinations, %s; %d connections ended", len(rules.all), what, ended)
        tell_new_ports(set(claims(before)), claims(rules))

    def prepare_to_hold(self) -> None:
        """Have what is needed at hand when this standby becomes active. Raises EgressRouterError."""
        with self.lock:
            self._prepare_to_hold(self.desired.translation)
            self.backend.apply(self.desired.translation)

    def _prepare_to_hold(self, translation: Translation) -> None:
        # Legacy iptables makes tables slowly, and has those quickly that were in place before. Without an address and a
        # way out they let nothing through.
        if not translation.holds and self.backend.name == "iptables":
            self.backend.apply(replace(translation, holds=True))

    def take_answers(self, answers: dict[HostName, tuple[Address, ...]], names: Collection[HostName]) -> bool:
        """Send new connections to the addresses of ``answers``, which are others for ``names``; return whether that is
        done.
        """
        with self.lock:
            self._answers = answers
            self.desired = replace(self.desired, translation=replace(self.desired.translation, answers=answers))
            try:
                self.backend.update_targets(self.desired.translation, names)
            except EgressRouterError as error:
                LOGGER.warning("new addresses of %s are not in place yet: %s", ", ".join(map(str, names)), error)
                return False
        return True

    def _read_rules(self) -> Ruleset:
        inputs = load_inputs(self._env)
        problems = Problems()
        run = parse_run(inputs, problems)
        if run is not None and run.router.health_port != self.config.health_port:
            # The default gave way to a destination, which only a router that starts can do.
            problems.errors += [p for p in problems.warnings if p.variable == "EGRESS_HEALTH_PORT"]
        if run is None or problems.errors:
            raise ConfigurationError(problems.errors)
        log_warnings(problems.warnings)
        return run.router.rules

    def end_stale(self) -> int:
        """End the connections that the rules in force would not make; return how many. Raises EgressRouterError."""
        return end_stale(self.desired, self.backend)

    def check(self, *, rules: bool, network: bool, told: bool = True) -> bool:
        """Look whether the rules, or the network, or both are in place and put back what is not; return whether all of
        that is in place now. ``told``: what was not is a loss, which is logged and counted.
        """
        try:
            with self.lock:
                # First, for what may not pass must be held back while the rest is looked at.
                lines = self.backend.repair(self.desired.translation) if rules else []
                if network:
                    missing, observed = restore(self.config, self.desired, self.may_hold)
                    if missing and not self.why_no_offload():
                        # An interface that was made anew is in no flow table.
                        missing += self.backend.repair(self.desired.translation)
                    if not missing and self._adopt(observed):
                        missing, _ = restore(self.config, self.desired, self.may_hold)
                        missing += self.backend.repair(self.desired.translation)
                    lines += missing
                if lines and rules:
                    self.end_stale()
        except EgressRouterError as error:
            if str(error) != self.state.problem:
                LOGGER.error("what is missing cannot be put back: %s", error)
            self.state.problem = str(error)
            return False
        if self.state.problem and rules and network:
            LOGGER.info("all is in place again")
            self.state.problem = ""
        if lines and told:
            self.state.repairs += 1
            shown = lines[:LOGGED_LINES] + [f"and {len(lines) - LOGGED_LINES} more"] * (len(lines) > LOGGED_LINES)
            LOGGER.warning("put back what was missing (- desired, + actual):\n  %s", "\n  ".join(shown))
        return True

    def _adopt(self, observed: Observed) -> bool:
        """Take over routes and addresses that the cluster side has got since; return whether there are any.

        What is gone from the cluster side is not: that is a loss, to be put back.
        """
        network = self.desired.network
        try:
            planned = desired_state(self.config, observed, network.egress).network
            planned = replace(planned, displaced=network.displaced)
        except EgressRouterError:
            return False
        if planned == network or not _adds_to(network, planned):
            return False
        translation = plan_translation(self.config, planned, self._answers)
        self.desired = Desired(planned, replace(translation, accepting=self.desired.translation.accepting))
        return True

    def hold(self, *, holds: bool) -> bool:
        """Have the addresses, or (a standby of a pair) not have them; return whether that is in place. What was
        forwarded before ends: a client's next packet is answered with a reset.
        """
        with self.lock:
            self.config = replace(self.config, holds=holds)
            network = replace(self.desired.network, held=holds)
            self.desired = Desired(network, replace(self.desired.translation, holds=holds))
        done = self.check(rules=True, network=True, told=False)
        self.end_proxied()
        return done

    def end_proxied(self) -> None:
        """End the connections of a proxy in this pod when its router does not have the addresses (any more)."""
        if not self.config.holds:
            self._end_proxied()

    def _end_proxied(self) -> None:
        if not self.config.mode.redirects:
            end_proxied(self._sources(), self.config.health_port)

    def proxied(self) -> int:
        """Return how many connections a proxy in this pod has with the addresses; 0 for a router that redirects."""
        return 0 if self.config.mode.redirects else outward(self._sources())

    def _sources(self) -> set[Address]:
        return {source.ip for source in self.config.sources.values()}

    def counters(self) -> dict[str, Counters]:
        """Return the traffic of each destination, by its text. Raises EgressRouterError.

        Nothing goes by a standby of a pair, so that it reads no counters: it would have the lock meanwhile, which it
        needs the moment it becomes active.
        """
        if self.config.holds:
            with self.lock:
                translation = self.desired.translation
                found = self.backend.counters(translation)
            self._counted = {str(rule): found.get(rule.line, Counters()) for rule in translation.rules.all}
            return self._counted
        counted = self._counted
        return {text: counted.get(text, Counters()) for text in map(str, self.config.rules.all)}

    def drift(self) -> list[str]:
        """Return how the rules differ from the desired ones. Raises EgressRouterError."""
        with self.lock:
            return self.backend.drift(self.desired.translation)

    def connections(self) -> list[Connection]:
        """Return the translated connections. Raises PlatformError."""
        return translated(self.desired)

    def why_no_offload(self) -> str:
        """Return why established connections go by the rules; empty where they go around them, by a flow table."""
        why = self.backend.why_no_offload(self.desired.translation)
        return LEAVING if why == OFF and not self._never_offloads else why

    def stop_offloading(self) -> None:
        """Have established connections go by the rules, from now on: of those in a flow table the kernel does not tell
        whether they still carry something. Raises EgressRouterError.
        """
        used = not self.why_no_offload()
        self.config = replace(self.config, flow_offload=FlowOffload.OFF)
        translation = replace(self.desired.translation, offload=FlowOffload.OFF)
        if used:
            self._apply(translation)
        else:
            # An interface that is put back meanwhile brings no flow table.
            with self.lock:
                self.desired = replace(self.desired, translation=translation)

    def stop_accepting(self) -> None:
        """Let established connections go on and refuse new ones. Raises EgressRouterError."""
        self.config = replace(self.config, flow_offload=FlowOffload.OFF)
        self._apply(replace(self.desired.translation, accepting=False, offload=FlowOffload.OFF))

    def close(self) -> None:
        """Forward nothing any more, and end what was forwarded. Raises EgressRouterError."""
        self._apply(replace(self.desired.translation, rules=Ruleset()))
        with self.lock:
            self.end_stale()
        self._end_proxied()

    def hand_over(self) -> None:
        """Forward nothing any more, and give the addresses up: a successor waits for them. Raises EgressRouterError."""
        try:
            self.close()
        finally:
            self.hold(holds=False)

    def _apply(self, translation: Translation) -> None:
        with self.lock:
            self.desired = replace(self.desired, translation=translation)
            self.backend.apply(self.desired.translation)


def claims(rules: Ruleset) -> tuple[str, ...]:
    """Return what the lines of a list claim, such as 8080/tcp and 100-200/udp."""
    return tuple("/".join(str(rule).split()[:2]) for rule in rules.claims)


def _adds_to(old: NetworkState, new: NetworkState) -> bool:
    """Whether ``new`` has all that ``old`` has."""
    pairs = [(old.routes, new.routes), (old.rules, new.rules), (old.addresses, new.addresses)]
    pairs += [(old.pod_addresses[family], new.pod_addresses[family]) for family in old.pod_addresses]
    return all(item in ours for theirs, ours in pairs for item in theirs)
