"""Policies and requests that collide often: a small world of names, addresses and ports."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import strategies as st

from egress_router.config.inputs import Inputs, Problems
from egress_router.policy.parse import VARIABLE, parse_policy
from egress_router.policy.values import Address, Policy

NAMES = ["com", "a.com", "b.com", "x.a.com", "y.a.com", "z.x.a.com", "org", "a.org", "under_score.org", "b-c.a.com"]
ADDRESSES = [
    *(
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.130",
        "198.51.100.200",
        "203.0.113.9",
        "10.1.2.3",
        "1.2.3.4",
        "255.255.255.254",
    ),
    *("2001:db8::1", "2001:db8::2", "2001:db8:1::1", "2001:db8:ffff::1", "3fff::1", "fd00::5", "8000::1"),
    *("127.0.0.1", "127.8.8.8", "169.254.169.254", "::1", "fe80::1", "fd00:ec2::254", "0.0.0.7", "64:ff9b::7f00:1"),
    # They carry 192.0.2.1, 10.1.2.3 and 127.0.0.1.
    *("64:ff9b::c000:201", "64:ff9b::a01:203", "2002:a01:203::5", "::a01:203", "::ffff:0:a01:203", "2002:7f00:1::"),
    *("64:ff9b:1::a01:203", "64:ff9b:1:2::a01:203", "2001:0:a::1", "2001:db8::5efe:a01:203"),
    "2001:db8:1::200:5efe:c000:201",
]
NETWORKS = [
    *("192.0.2.0/24", "192.0.2.0/25", "192.0.2.0/30", "198.51.100.0/24", "10.0.0.0/8", "0.0.0.0/0", "128.0.0.0/1"),
    *("2001:db8::/32", "2001:db8::/48", "2001:db8::/126", "::/0", "8000::/1", "::/1", "127.0.0.0/8", "fd00::/8"),
    "::ffff:192.0.2.0/120",
]
NOWHERE = ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
OWN = (ip_address("198.51.100.200"), ip_address("2001:db8:1::1"))
PORTS = ["", "", "", "", ":443", ":80", ":443,8443", ":80-443", ":1-65535"]
REQUEST_PORTS = [80, 443, 444, 8443]


@st.composite
def policy_lines(draw: st.DrawFn) -> str:
    target = draw(
        st.one_of(
            st.sampled_from(NAMES),
            st.sampled_from(NAMES).map("*.{}".format),
            st.sampled_from(ADDRESSES + NETWORKS),
        )
    )
    ports = draw(st.sampled_from(PORTS))
    if ":" in target and ports:
        target = f"[{target}]"
    return draw(st.sampled_from(["", "!"])) + target + ports


def policy_texts(max_size: int = 12) -> st.SearchStrategy[str]:
    last = st.sampled_from(["", "", "*", "!*", "*:443"])
    lines = st.lists(policy_lines(), min_size=1, max_size=max_size)
    return st.tuples(lines, last).map(lambda both: "\n".join([*both[0], both[1]]))


#: Networks that heads name: within each other, apart, of both families.
CLIENT_NETWORKS = [
    *("10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "10.2.0.0/16", "10.0.0.0/8", "0.0.0.0/0"),
    *("fd01::/48", "fd01::5", "::/0", "fd00::/8", "office", "any"),
]
CLIENTS = [ip_address(text) for text in ("10.1.2.3", "10.1.2.4", "10.1.9.9", "10.2.0.1", "10.9.9.9", "192.168.1.1")] + [
    ip_address(text) for text in ("fd01::5", "fd01::6", "fd02::1", "2001:db8:77::1")
]
OFFICE = "[network office = 10.1.2.0/25, fd01::/64]"


@st.composite
def heads(draw: st.DrawFn) -> str:
    networks = draw(st.lists(st.sampled_from(CLIENT_NETWORKS), min_size=1, max_size=3, unique=True))
    if "any" in networks:
        return "[from any]"
    return f"[from {draw(st.sampled_from([', ', ' ', ','])).join(networks)}]"


@st.composite
def section_texts(draw: st.DrawFn, largest: int = 5) -> str:
    """Policies with sections: some lines for everybody, then heads with lines, some of which end in ``*``."""
    lines = [OFFICE, *draw(st.lists(policy_lines(), max_size=largest))]
    for head in draw(st.lists(heads(), min_size=1, max_size=4)):
        lines += [head, *draw(st.lists(policy_lines(), max_size=largest))]
        if head != "[from any]":
            lines.append(draw(st.sampled_from(["", "*", "!*", "*:443"])))
    # One line at least.
    return "\n".join([*lines, draw(policy_lines())] if lines[-1] not in ("*", "!*", "*:443") else lines)


def parse(text: str) -> Policy:
    problems = Problems()
    policy = parse_policy(Inputs({VARIABLE: text}), problems)
    problems.raise_if_any()
    assert policy
    return policy


#: A name with what it resolves to, or an address (resolving to itself).
requests = st.tuples(
    st.one_of(
        st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(ADDRESSES + NOWHERE), max_size=3, unique=True)),
        st.sampled_from(ADDRESSES + NOWHERE).map(lambda address: (address, [address])),
    ),
    st.sampled_from(REQUEST_PORTS),
).map(lambda pair: (pair[0][0], tuple(ip_address(text) for text in pair[0][1]), pair[1]))

Request = tuple[str, tuple[Address, ...], int]
