"""Small clusters in which everything that can go wrong does so often."""

from __future__ import annotations

from hypothesis import strategies as st

from egress_router.egressip.api import HostSubnet, NetNamespace

NODES = ("a", "b", "c", "d")
NAMESPACES = ("p", "q", "r", "s")
HOSTS = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
ADDRESSES = (*(f"192.0.2.{n}" for n in range(16, 23)), "2001:db8::1", "2001:db8::2")
LISTED = (*ADDRESSES, "192.0.2.1", "198.51.100.9", "192.0.2.255", "2001:DB8::1", "not-an-address", "")
CIDRS = ("192.0.2.16/30", "192.0.2.16/29", "192.0.2.20/30", "2001:db8::/64", "192.0.2.0/24", "bad/cidr")

EXCEPTED = ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/25", "192.0.2.128/25", "2001:db8:1::/48", "0.0.0.0/0")

excepts = st.lists(st.sampled_from(EXCEPTED), max_size=3, unique=True).map(tuple)
addresses = st.lists(st.sampled_from(ADDRESSES + LISTED), max_size=4).map(tuple)


@st.composite
def namespaces(draw: st.DrawFn, name: str) -> NetNamespace:
    return NetNamespace(name, draw(st.integers(0, 9)), draw(addresses), draw(excepts))


@st.composite
def nodes(draw: st.DrawFn, name: str) -> HostSubnet:
    usual = HOSTS[NODES.index(name)]
    return HostSubnet(
        name,
        draw(st.sampled_from([usual] * 8 + [*HOSTS, "nonsense"])),
        egress_ips=draw(st.one_of(st.just(()), addresses)),
        egress_cidrs=draw(st.lists(st.sampled_from(CIDRS), max_size=2).map(tuple)),
        capacity=draw(st.one_of(st.none(), st.integers(0, 3))),
        interface_subnets=draw(
            st.sampled_from([(), ("192.0.2.0/24", "2001:db8::/64"), ("192.0.2.0/24",), ("198.51.100.0/24",)])
        ),
    )


@st.composite
def clusters(draw: st.DrawFn) -> tuple[dict[str, NetNamespace], dict[str, HostSubnet]]:
    present_namespaces = draw(st.lists(st.sampled_from(NAMESPACES), unique=True, min_size=1))
    present_nodes = draw(st.lists(st.sampled_from(NODES), unique=True, min_size=1))
    return (
        {name: draw(namespaces(name)) for name in present_namespaces},
        {name: draw(nodes(name)) for name in present_nodes},
    )


offline_sets: st.SearchStrategy[frozenset[str]] = st.one_of(
    st.just(frozenset()), st.frozensets(st.sampled_from(NODES), max_size=2)
)
assignments = st.dictionaries(
    st.sampled_from([*NODES, "gone"]), st.lists(st.sampled_from(ADDRESSES), max_size=3).map(tuple), max_size=3
)
