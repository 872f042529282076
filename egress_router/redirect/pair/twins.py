"""The routers of a pair compare what they are to do: addresses, destinations, version.

Each asks the others at their health port, by the cluster's network: a standby has no address in the egress network.
What they say is not signed, so it is shown, and makes a standby say why, but never takes the active one out of service,
nor keeps anybody from becoming active.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from egress_router import __version__
from egress_router.config.inputs import Inputs, Problems, load_inputs
from egress_router.config.values import Address
from egress_router.daemon.log import LOGGER
from egress_router.redirect.pair.state import PairState, Twin
from egress_router.redirect.pair.values import PairConfig, Role

#: Between two rounds, and for one answer.
COMPARE_SECONDS, ANSWER_SECONDS = 5.0, 1.0
#: Between two rounds of those that elect by the cluster's network: a new pod is to hear who is active.
MEET_SECONDS = 2.0
#: Name servers that do not answer take minutes (resolv.conf(5): attempts, search).
STUCK_SECONDS = 600.0
PAGE = "/pair"
_MOST_BYTES = 4096
_MOST_TWINS = 16
#: Of the proxy beside a router that has the address for it.
_LISTS = ("EGRESS_HTTP_PROXY_DESTINATION", "EGRESS_DNS_PROXY_DESTINATION", "EGRESS_TLS_PROXY_DESTINATION")
#: What is compared, as people read it.
ADDRESSES, DESTINATIONS, SETTINGS, VERSION = "addresses", "destinations", "settings of the pair", "versions"


def features(
    pair: PairConfig, addresses: Iterable[object], destinations: str, lists: Mapping[str, str]
) -> dict[str, str]:
    """Return what routers of a pair have to have in common, each as a digest or in plain."""
    texts = [destinations, *(f"{name} {lists[name]}" for name in sorted(lists))]
    return {
        ADDRESSES: _digest(" ".join(sorted(map(str, addresses)))),
        DESTINATIONS: _digest("\n".join(texts)),
        SETTINGS: f"{pair.number} {pair.interval:g}" + (f" cluster {pair.port}" if pair.by_cluster else ""),
        VERSION: __version__,
    }


def _digest(text: str) -> str:
    # Imported here, as where adverts get their source: few routers have a twin.
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def proxy_lists(env: Mapping[str, str]) -> dict[str, str]:
    """Return the lists of a proxy that this container is told of, too, by their variables."""
    if not any(name in env or f"{name}_FILE" in env for name in _LISTS):
        return {}
    inputs: Inputs = load_inputs(env)
    found = {}
    for name in _LISTS:
        text = inputs.list_text(name, Problems())
        if text is not None:
            found[name] = text.text
    return found


def own_page(state: PairState, mine: Callable[[], Mapping[str, str]]) -> dict[str, Any]:
    """Return what a peer is told."""
    return {"role": str(state.role), "holding": state.holding, "mac": state.mac, "features": dict(mine())}


def read_page(body: bytes, mine: Mapping[str, str]) -> Twin:
    """Return what a peer's page says, in comparison with ``mine``."""
    try:
        said = json.loads(body)
        role, theirs = Role(said["role"]), said["features"]
        differs = tuple(name for name, value in mine.items() if theirs.get(name) != value)
        mac = said.get("mac")
        return Twin(str(role), said["holding"] is True, differs, mac=mac if isinstance(mac, str) else "")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Twin(problem="what it says is no router of a pair's")


class Twins:
    """Asks the peers from a thread, and notes in ``state`` what they say. ``own`` are the pod's addresses in the
    cluster, and ``mine`` what this router has in common with them if all is well.
    """

    def __init__(
        self,
        state: PairState,
        port: int,
        own: Callable[[], Iterable[Address]],
        mine: Callable[[], Mapping[str, str]],
    ) -> None:
        self._state = state
        self._port = port
        self._own = own
        self._mine = mine
        #: By the name: where it was found last.
        self._places: dict[str, list[str]] = {}
        #: Called with the addresses of the peers, as often as they are found.
        self.met: Callable[[Iterable[str]], None] = lambda _: None

    def keep_asking(self, beat: Callable[[], None]) -> None:
        """Ask for ever."""
        while True:
            self.ask(beat)
            time.sleep(MEET_SECONDS if self._state.config.by_cluster else COMPARE_SECONDS)

    def ask(self, beat: Callable[[], None] = lambda: None) -> None:
        """Ask each peer once; ``beat`` is called before what takes its time."""
        own: dict[int, str] = {address.version: str(address) for address in self._own()}
        mine = self._mine()
        addresses, problem = self._found(own, beat)
        if addresses or not problem:
            self.met(addresses)
        beat()
        twins = {address: self._ask(address, own, mine) for address in addresses[:_MOST_TWINS]}
        before = self._state.twins
        for address, twin in twins.items():
            if twin.differs and twin.differs != before.get(address, Twin()).differs:
                LOGGER.warning("the %s are not those of the peer %s", " and ".join(twin.differs), address)
        self._state.twins = twins
        self._state.not_found = problem

    def _found(self, own: Mapping[int, str], beat: Callable[[], None]) -> tuple[list[str], str]:
        """Return the addresses of the peers, without our own, and why there are none."""
        found: dict[str, None] = {}
        problem = ""
        for peer in self._state.config.peers:
            beat()
            try:
                places = [str(place[0]) for *_, place in socket.getaddrinfo(peer, self._port, type=socket.SOCK_STREAM)]
            except OSError as error:
                problem = f"EGRESS_PAIR_PEERS: {peer} has no address: {error.strerror}"
                # A name server that says nothing for a moment makes nobody go away.
                places = self._places.get(peer, []) if error.errno == socket.EAI_AGAIN else []
            self._places[peer] = places
            found |= dict.fromkeys(_of_one_family(places, own))
        for address in own.values():
            found.pop(address, None)
        if not found and not problem:
            problem = "EGRESS_PAIR_PEERS names no other router than this one"
        return sorted(found), problem

    def _ask(self, address: str, own: Mapping[int, str], mine: Mapping[str, str]) -> Twin:
        # From the pod's own address: the policy rules send that by the cluster's interface.
        source = own.get(ip_address(address.partition("%")[0]).version)
        if source is None:
            return Twin(problem="this pod has no address of its family")
        try:
            status, body = _page(address, self._port, source)
        except OSError as error:
            return Twin(problem=f"it does not answer at port {self._port}: {error.strerror or error}")
        if status != b"200":
            return Twin(problem=f"what answers at port {self._port} is no router of a pair")
        return read_page(body, mine)


def _of_one_family(addresses: Iterable[str], own: Iterable[int]) -> list[str]:
    """Return those of the addresses of a name that are of one family, if possible one of ``own``: a pod that has both
    is one router, and counts once.
    """
    found: dict[int, list[str]] = {}
    for address in addresses:
        found.setdefault(6 if ":" in address else 4, []).append(address)
    return next((found[version] for version in (*own, *found) if version in found), [])


def _page(address: str, port: int, source: str) -> tuple[bytes, bytes]:
    """Return status and body of a peer's page after ANSWER_SECONDS at most, however slow it is. Raises OSError."""
    end = time.monotonic() + ANSWER_SECONDS
    host = f"[{address}]" if ":" in address else address
    with socket.create_connection((address, port), ANSWER_SECONDS, (source, 0)) as asked:
        asked.sendall(f"GET {PAGE} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while len(data) < _MOST_BYTES:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            asked.settimeout(left)
            part = asked.recv(_MOST_BYTES)
            if not part:
                break
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    _, _, rest = head.partition(b" ")
    return rest[:3], body
