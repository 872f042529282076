"""Every parser of outside text, fed with anything: it raises what it declares and nothing else, and comes to an end.

Inputs are seeds (tests/attack/seeds, one file an input, for all parsers), changed here and there, and text and bytes at
random. ``EXAMPLES_PERCENT=100000 scripts/test attack -k fuzz`` runs for hours; what it finds becomes a seed.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config import fields
from egress_router.config.inputs import Inputs, Problems, load_inputs, parse_env_file
from egress_router.config.kubernetes_yaml import YamlError, parse_documents, parse_json
from egress_router.config.mounts import mount_points
from egress_router.config.run_dir import parse_run_dir
from egress_router.config.yaml_edit import set_list
from egress_router.dns.resolv_conf import nameservers, parse_hosts, parse_resolv_conf
from egress_router.dns_proxy.destinations import parse_dns_proxy
from egress_router.egressip.api import address_key, network_range, networks_of, pod_ranges
from egress_router.egressip.node.cluster_networks import cluster_networks
from egress_router.egressip.source import api_objects
from egress_router.egressip.source.api_objects import Unusable
from egress_router.egressip.source.objects import parse_objects
from egress_router.errors import ConfigurationError
from egress_router.http_proxy.config import parse_http_settings
from egress_router.http_proxy.squid import log_line
from egress_router.http_proxy.targets import parse_target
from egress_router.net.arp_nd import claimed
from egress_router.net.icmp_probe import parse_message
from egress_router.policy.evaluate import literal_address
from egress_router.policy.parse import parse_policy
from egress_router.redirect.config import parse_router
from egress_router.redirect.run_config import parse_run

SEEDS = sorted((Path(__file__).parents[1] / "seeds").iterdir())
#: What one input may take, by the wall clock of a busy machine.
SECONDS = 20
OURS = {"EGRESS_SOURCE": "192.0.2.46/24 2001:db8:2::46/64", "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1"}


def every_variable(text: str) -> None:
    """The same text as each variable that is read."""
    for name in (
        "SOURCE",
        "GATEWAY",
        "HOST_IPS",
        "CLUSTER_CIDRS",
        "CHECK",
        "HEALTH_PORT",
        "SHUTDOWN_GRACE",
        "INTERFACE",
    ):
        parse_run(Inputs({**OURS, "EGRESS_DESTINATION": "203.0.113.25", f"EGRESS_{name}": text}), Problems())
    for name in ("PORT", "CONNECT_PORTS", "MAX_CLIENTS", "WORKERS", "IDLE_TIMEOUT", "PARENT"):
        parse_http_settings(Inputs({f"EGRESS_HTTP_PROXY_{name}": text}), Problems())
    dns = {"EGRESS_DNS_PROXY_DESTINATION": "80 example.com"}
    for name in ("NAMESERVERS", "IDLE_TIMEOUT"):
        parse_dns_proxy(Inputs({**dns, f"EGRESS_DNS_PROXY_{name}": text}), Problems(), required=True)
    parse_run_dir(Inputs({"EGRESS_RUN_DIR": text}), Problems(), 65)


def every_field(text: str) -> None:
    for read in (fields.port, fields.port_range, fields.address, fields.interface_address, fields.network):
        read(text)
    fields.interface_name(text)
    fields.host_name(text)
    fields.duration(text, 0, 100)


def objects_of_the_api(text: str) -> None:
    with suppress(YamlError, RecursionError):
        raw = parse_json(text)
        for read in (api_objects.egress_ip, api_objects.egress_node, api_objects.assignment, api_objects.pod):
            if isinstance(raw, dict):
                with suppress(Unusable):
                    read({"metadata": {"name": "a", "uid": "b"}, **raw})


def raising(parse: Callable[[str], object], *declared: type[Exception]) -> Callable[[str], None]:
    def quiet(text: str) -> None:
        with suppress(*declared):
            parse(text)

    return quiet


def squid_line(text: str) -> None:
    raw = log_line.parse(text)
    if raw is not None:
        for field in raw:
            log_line.plain(field)


TEXTS: dict[str, Callable[[str], object]] = {
    "redirect lines": lambda text: parse_router(Inputs({**OURS, "EGRESS_DESTINATION": text}), Problems()),
    "policy": lambda text: parse_policy(Inputs({"EGRESS_HTTP_PROXY_DESTINATION": text}), Problems(), required=True),
    "lines of the DNS proxy": lambda text: parse_dns_proxy(
        Inputs({**OURS, "EGRESS_DNS_PROXY_DESTINATION": text}), Problems(), required=True
    ),
    "variables": every_variable,
    "fields": every_field,
    "env file": raising(lambda text: load_inputs(parse_env_file(text, "file")), ConfigurationError),
    "YAML": raising(parse_documents, YamlError),
    "JSON": raising(parse_json, YamlError),
    "state file": lambda text: parse_objects("f.yaml", text, Problems()),
    "state file in JSON": lambda text: parse_objects("f.json", text, Problems()),
    "patched file": raising(lambda text: set_list(text, "HostSubnet", "a", "egressIPs", ["192.0.2.1"]), YamlError),
    "objects of the API": objects_of_the_api,
    "addresses": lambda text: (address_key(text), network_range(text), networks_of(pod_ranges(text))),
    "cluster networks": lambda text: cluster_networks(text.split(), "--cluster", Problems()),
    "resolv.conf": lambda text: (parse_resolv_conf(text), nameservers(text)),
    "hosts": parse_hosts,
    "mountinfo": mount_points,
    "target": raising(parse_target, ValueError),
    "host in a URL": literal_address,
    "line of Squid": squid_line,
}
BYTES: dict[str, Callable[[bytes], object]] = {"datagram": parse_message, "frame": claimed}

#: Pieces that parsers care about.
WORDS: tuple[str, ...] = (
    "tcp",
    "udp",
    "80",
    "65536",
    "0x",
    "01",
    "-",
    ":",
    "/",
    "[",
    "]",
    "{",
    "}",
    "!",
    "*",
    "#",
    "%",
    "\\",
    '"',
    "'",
    ",",
)
WORDS += (
    "[from ",
    "[network ",
    "any",
    " = ",
    "192.0.2.1",
    "2001:db8::1",
    "::ffff:1.2.3.4",
    "fe80::1%eth0",
    "/33",
    "example.com",
    "ü",
    "\x00",
    "\n",
    "\r\n",
    "\t",
)
WORDS += (
    "&a",
    "*a",
    "<<",
    "!!int",
    "kind: HostSubnet",
    "metadata: {name: a}",
    "---",
    '{"ask": 1}',
    "9" * 40,
    "\ud800",
    "￾",
)
CHANGED = st.builds(
    lambda seed, at, cut, word: seed[: at % (len(seed) + 1)] + word + seed[at % (len(seed) + 1) + cut :],
    st.sampled_from([path.read_text("utf-8") for path in SEEDS]),
    st.integers(0, 10_000),
    st.integers(0, 20),
    st.one_of(st.sampled_from(WORDS), st.text(max_size=8)),
)
PIECES = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=30).map(" ".join)
ANY_TEXT = st.one_of(CHANGED, PIECES, st.text(max_size=200))


@contextmanager
def ending() -> Iterator[None]:
    """Fail where one input takes too long."""

    def late(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", TEXTS)
@given(ANY_TEXT)
def test_fuzz_texts(name: str, text: str) -> None:
    with ending():
        TEXTS[name](text)


@pytest.mark.parametrize("name", TEXTS)
def test_fuzz_seeds(name: str) -> None:
    for path in SEEDS:
        text = path.read_text("utf-8")
        for variant in (text, text * 50, text[: len(text) // 2], text.replace(" ", "\t"), text.upper(), text[::-1]):
            with ending():
                TEXTS[name](variant)


@pytest.mark.parametrize("name", BYTES)
@given(st.one_of(st.binary(max_size=300), ANY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_fuzz_bytes(name: str, data: bytes) -> None:
    with ending():
        BYTES[name](data)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["kind", "metadata", "name", "spec", "status", "items", "egressIPs", "podIPs", "uid", "labels"]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)


@given(JSON)
def test_fuzz_objects(value: object) -> None:
    """What is good JSON, and of no shape that anybody expects."""
    text = json.dumps(value)
    with ending():
        parse_objects("f.json", text, Problems())
        objects_of_the_api(text)
        parse_message(text.encode())
