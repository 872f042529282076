"""The variables of a pair of routers."""

from __future__ import annotations

from ipaddress import IPv4Address

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.inputs import Inputs, Problems
from egress_router.config.patterns import pattern
from egress_router.config.values import Family, Interface
from egress_router.redirect.pair.values import DEFAULT_INTERVAL, DEFAULT_PORT, ElectionNetwork, PairConfig

VARIABLE = "EGRESS_PAIR"
NETWORK, PEERS, PORT = "EGRESS_PAIR_NETWORK", "EGRESS_PAIR_PEERS", "EGRESS_PAIR_PORT"
_SETTINGS = ("EGRESS_PAIR_PRIORITY", "EGRESS_PAIR_INTERVAL", "EGRESS_PAIR_ADDRESS", PEERS, NETWORK, PORT)
_NUMBER = r"[1-9][0-9]{0,2}"
_INTERVAL = r"([1-9][0-9]{0,3})(ms|s)"
#: VRRP counts hundredths of a second (RFC 9568, 5.2.7).
_STEP, _LEAST, _MOST = 10, 20, 1000
EXPECTED_PRIORITY = "1 to 100; whoever has the highest one takes the address"
EXPECTED_INTERVAL = f"tens of milliseconds from {_LEAST}ms to {_MOST}ms, such as 150ms; the same in all of them"
EXPECTED_PEERS = "addresses of the pair's pods, or a name that has them: that of a headless Service, as a rule"
EXPECTED_NETWORK = "egress (adverts go by the egress network, as multicast) or cluster (between the pods, as UDP)"
MOST_PEERS = 16
#: keepalived's own limit is larger, that of a path in its configuration is not.
LONGEST_DIRECTORY = 64


def parse_pair(inputs: Inputs, problems: Problems, sources: dict[Family, Interface]) -> PairConfig | None:
    """Return the pair that the router belongs to, None when it is alone (or something is wrong, which is noted)."""
    text = inputs.value(VARIABLE)
    if text is None:
        for name in _SETTINGS:
            if value := inputs.value(name):
                problems.error(name, None, value, f"is not used without {VARIABLE}", f"{VARIABLE}, or no {name}")
        return None
    # Imported here: few routers have a twin, and every pod would wait for pathlib.
    from egress_router.config.run_dir import parse_run_dir

    number = _number(inputs, problems, VARIABLE, 0, 255, "the VRRP virtual router, 1 to 255, of this pair alone")
    return PairConfig(
        number=number,
        priority=_number(inputs, problems, "EGRESS_PAIR_PRIORITY", 50, 100, EXPECTED_PRIORITY),
        interval=_interval(inputs, problems),
        address=_address(inputs, problems, sources),
        directory=parse_run_dir(inputs, problems, LONGEST_DIRECTORY),
        peers=_peers(inputs, problems, sources),
        network=_network(inputs, problems),
        port=_port(inputs, problems),
    )


def _network(inputs: Inputs, problems: Problems) -> ElectionNetwork:
    text = inputs.value(NETWORK)
    if text is None or text.lower() in tuple(ElectionNetwork):
        return ElectionNetwork((text or "egress").lower())
    problems.error(NETWORK, None, text, "is neither egress nor cluster", EXPECTED_NETWORK)
    return ElectionNetwork.EGRESS


def _port(inputs: Inputs, problems: Problems) -> int:
    text = inputs.value(PORT)
    if text is None:
        return DEFAULT_PORT
    port = fields.port(text)
    if isinstance(port, Invalid):
        problems.error(PORT, None, text, port, fields.EXPECTED_PORT)
        return DEFAULT_PORT
    return port


def _number(inputs: Inputs, problems: Problems, variable: str, default: int, most: int, expected: str) -> int:
    text = inputs.value(variable)
    if text is None:
        return default
    if not pattern(_NUMBER).fullmatch(text) or int(text) > most:
        problems.error(variable, None, text, f"is not a number from 1 to {most}", expected)
        return default
    return int(text)


def _interval(inputs: Inputs, problems: Problems) -> float:
    variable, default = "EGRESS_PAIR_INTERVAL", DEFAULT_INTERVAL
    text = inputs.value(variable)
    if text is None:
        return default
    match = pattern(_INTERVAL).fullmatch(text)
    milliseconds = int(match[1]) * (1000 if match[2] == "s" else 1) if match else 0
    if not _LEAST <= milliseconds <= _MOST or milliseconds % _STEP:
        problems.error(variable, None, text, "is no interval of adverts", EXPECTED_INTERVAL)
        return default
    return milliseconds / 1000


def _address(inputs: Inputs, problems: Problems, sources: dict[Family, Interface]) -> IPv4Address | None:
    variable = "EGRESS_PAIR_ADDRESS"
    text = inputs.value(variable)
    if text is None:
        return None
    expected = "an IPv4 address of the egress network that no machine has, another one for each router of the pair"
    value = fields.address(text)
    if isinstance(value, Invalid):
        problems.error(variable, None, text, value, expected)
    elif not isinstance(value, IPv4Address):
        problems.error(variable, None, text, "is an IPv6 address", expected)
    elif kind := fields.not_a_host(value):
        problems.error(variable, None, text, f"cannot be a source: it is {kind}", expected)
    elif any(source.ip == value for source in sources.values()):
        problems.error(variable, None, text, "is EGRESS_SOURCE itself", expected)
    elif inputs.value(NETWORK) and _network(inputs, Problems()) is ElectionNetwork.CLUSTER:
        problems.error(variable, None, text, f"is for adverts in the egress network, and {NETWORK} is cluster", "unset")
    else:
        return value
    return None


def _peers(inputs: Inputs, problems: Problems, sources: dict[Family, Interface]) -> tuple[str, ...]:
    variable = PEERS
    found: dict[str, None] = {}
    for word in (inputs.value(variable) or "").replace(",", " ").split():
        peer = fields.bare_address(word)
        if isinstance(peer, Invalid):
            name = fields.host_name(word)
            if isinstance(name, Invalid):
                problems.error(variable, None, word, name, EXPECTED_PEERS)
            else:
                found[str(name)] = None
        elif any(source.ip == peer for source in sources.values()):
            problems.error(variable, None, word, "is EGRESS_SOURCE, which all of them share", EXPECTED_PEERS)
        else:
            found[str(peer)] = None
    if len(found) > MOST_PEERS:
        problems.error(variable, None, "", f"has {len(found)} entries", f"at most {MOST_PEERS}")
    return tuple(found)
