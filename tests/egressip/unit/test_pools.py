"""Pools: which address is given next, to whom, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import islice
from typing import Any, cast
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.egressip.api import Disposition, address_key, address_text, family
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.source import api_objects
from egress_router.egressip.source.api_objects import Assignment, EgressIP, EgressIPPool, Unusable
from egress_router.egressip.source.groups import ApiObjects, Grouping, cluster_state, with_given
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.kubernetes_status import StatusMaker, keep_status, ready_of, selected
from egress_router.egressip.source.pool_writer import PoolWriter
from egress_router.egressip.source.pools import MOST_SHOWN, Pools, distinct, in_order_of, pools_of
from egress_router.errors import TryAgainError
from egress_router.kubernetes.client import ApiError, Client
from egress_router.kubernetes.events import Events
from egress_router.kubernetes.lease import CONFLICT, KubernetesLease


def pool(name: str, *ranges: str) -> EgressIPPool:
    """A pool of CIDRs, and of ranges FIRST-LAST."""
    parts = [text.split("-") for text in ranges]
    listed = [{"cidr": one[0]} if len(one) == 1 else {"start": one[0], "end": one[1]} for one in parts]
    return api_objects.egress_ip_pool({"metadata": {"name": name, "uid": name}, "spec": {"ipRanges": listed}})


def egress_ip(name: str, created: str = "", status: Mapping[str, Any] | None = None, **spec: Any) -> EgressIP:
    whole = {"namespaceSelector": {"matchLabels": {"env": "x"}}, **spec}
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": created}
    return api_objects.egress_ip({"metadata": metadata, "spec": whole, "status": status or {}}, keep_status)


def assignment(ip: str, given_to: str = "", of: str = "") -> Assignment:
    return Assignment(ip, f"uid-{ip}", "1", ip, "", 1, given_to=f"uid-{given_to}" if given_to else "", pool=of)


def objects(*values: EgressIP | EgressIPPool | Assignment) -> ApiObjects:
    def of(kind: type) -> dict[str, Any]:
        return {value.uid: value for value in values if isinstance(value, kind)}

    found = ApiObjects(of(EgressIP), {}, of(Assignment), {}, {}, {}, of(EgressIPPool))
    return replace(found, egress_ips=with_given(found.egress_ips, found.assignments))


# Ranges


def test_ranges_are_read() -> None:
    found = pool("a", "192.0.2.64/30", "192.0.2.100-192.0.2.101", "2001:db8::/126")
    assert [(address_text(first), address_text(last)) for first, last in found.ranges] == [
        ("192.0.2.64", "192.0.2.67"),
        ("192.0.2.100", "192.0.2.101"),
        ("2001:db8::", "2001:db8::3"),
    ]
    assert found.invalid == ""


@pytest.mark.parametrize("text", ["192.0.2.9-192.0.2.8", "192.0.2.9-2001:db8::1", "192.0.2.0/33", "x-y"])
def test_a_range_that_is_none_has_no_address_and_says_so(text: str) -> None:
    found = pool("a", text, "192.0.2.64/32")
    assert len(found.ranges) == 1
    assert "is no range" in found.invalid


spans = st.lists(
    st.tuples(st.sampled_from([0, 1 << 128]), st.integers(1000, 1040), st.integers(0, 12)).map(
        lambda drawn: (drawn[0] + drawn[1], drawn[0] + drawn[1] + drawn[2])
    ),
    max_size=4,
)


@given(spans, st.text(max_size=3))
def test_every_address_comes_once_whatever_the_name(ranges: list[tuple[int, int]], name: str) -> None:
    wanted = sorted({key for first, last in ranges for key in range(first, last + 1)})
    assert sorted(in_order_of(name, ranges)) == wanted
    assert sorted(key for first, last in distinct(ranges) for key in range(first, last + 1)) == wanted


def test_a_large_range_costs_nothing() -> None:
    found = list(islice(in_order_of("shop", pool("a", "2001:db8::/64").ranges), 3))
    assert found[1] == found[0] + 1
    full = objects(pool("a", "2001:db8::/64"))
    assert StatusMaker(full, decide(cluster_state(full, {}, None)), selected(Grouping(), full)).pool_status(
        full.pools["a"]
    )["usage"] == {"total": MOST_SHOWN, "used": 0}


# Choosing

FREE = pool("a", "192.0.2.64/30", "2001:db8::/127")


def test_one_of_each_family_and_as_many_as_are_asked_for() -> None:
    one, three = egress_ip("one", pool="a"), egress_ip("three", pool="a", poolAddresses=3)
    pools = pools_of(objects(FREE, one, three))
    assert pools.missing(one) == [4, 6]
    assert pools.missing(three) == [4, 4, 4, 6, 6, 6]
    assert pools.missing(egress_ip("listed", egressIPs=["192.0.2.1"])) == []
    assert pools.missing(egress_ip("nowhere", pool="b")) == []


def test_what_others_have_is_not_given() -> None:
    node = api_objects.egress_node(
        {
            "metadata": {"name": "n", "uid": "n"},
            "spec": {"egressIPs": ["192.0.2.65"]},
            "status": {"hostIPs": ["192.0.2.66"]},
        }
    )
    value = egress_ip("shop", pool="a")
    some = objects(FREE, value, egress_ip("other", egressIPs=["192.0.2.64"]))
    pools = pools_of(replace(some, egress_nodes={"n": node}))
    assert pools.choose(value, 4) == "192.0.2.67"
    pools.taken.add(address_key("192.0.2.67") or 0)
    assert pools.choose(value, 4) is None
    assert pools.choose(value, 6) in ("2001:db8::", "2001:db8::1")


def test_what_it_had_before_comes_first_and_the_name_decides_else() -> None:
    value = egress_ip("shop", pool="a")
    pools = pools_of(objects(FREE, value))
    assert pools.choose(value, 4, ["192.0.2.1", "192.0.2.66"]) == "192.0.2.66"
    assert pools.choose(value, 4) == pools.choose(value, 4)
    large = pools_of(objects(pool("a", "192.0.2.0/24"), value))
    chosen = {large.choose(egress_ip(f"n{number}", pool="a"), 4) for number in range(20)}
    assert len(chosen) > 10, "what becomes free is not at once somebody else's"


@pytest.mark.parametrize(
    ("range_", "subnet"), [("2001:db8::/32", "2001:db8:77:1::/64"), ("10.0.0.0/8", "10.77.1.0/24")]
)
def test_of_a_large_pool_the_addresses_that_a_node_can_hold_come_first(range_: str, subnet: str) -> None:
    value = egress_ip("shop", pool="a")
    pools = pools_of(objects(pool("a", range_), value))
    pools.subnets = (subnet,)
    found = pools.choose(value, 6 if ":" in range_ else 4)
    assert found is not None
    assert ip_address(found) in ip_network(subnet)


def test_a_pool_that_is_exhausted_is_searched_once() -> None:
    many = [egress_ip(f"shop-{number}", pool="a") for number in range(200)]
    pools = pools_of(objects(pool("a", "10.0.0.0/17"), *many))
    first, *_ = pools.by_name["a"].ranges
    pools.taken.update(range(first[0], first[1] + 1))
    with mock.patch.object(Pools, "_is_free", autospec=True, return_value=False) as looked:
        assert [pools.choose(value, 4) for value in many] == [None] * len(many)
    assert looked.call_count <= 2**15


def test_addresses_that_a_node_can_have_come_first() -> None:
    value = egress_ip("shop", pool="a")
    pools = pools_of(objects(pool("a", "192.0.2.248/29"), value))
    pools.subnets = ("192.0.2.0/24",)
    given_out = []
    while (ip := pools.choose(value, 4)) is not None:
        given_out.append(ip)
        pools.taken.add(address_key(ip) or 0)
    assert given_out[-1] == "192.0.2.255", "the broadcast address last, and NotInSubnet says why"
    assert len(given_out) == 8


# Who has what


def test_an_address_is_whose_object_says_so() -> None:
    shop, lab = egress_ip("shop", pool="a"), egress_ip("lab", pool="a")
    found = objects(
        FREE,
        shop,
        lab,
        assignment("192.0.2.66", "shop", "a"),
        assignment("192.0.2.64", "shop", "a"),
        assignment("192.0.2.65", "lab", "b"),
        assignment("192.0.2.67"),
    )
    assert found.egress_ips["uid-shop"].egress_ips == ("192.0.2.64", "192.0.2.66")
    assert found.egress_ips["uid-lab"].egress_ips == (), "it names another pool now"
    plain = {"x": egress_ip("x", egressIPs=["192.0.2.1"])}
    assert with_given(plain, {}) is plain


def test_nothing_leaves_before_an_address_was_given() -> None:
    """Not even with the node's address: the object wants an egress IP."""
    found = objects(FREE, egress_ip("shop", pool="a"))
    verdict = decide(cluster_state(found, {}, None)).namespaces["shop"]
    assert verdict.disposition is Disposition.DROP
    assert verdict.reasons == ("no address of the pool a was given",)


def test_an_object_that_says_both_cannot_be_used() -> None:
    for spec in ({"pool": "a", "egressIPs": ["192.0.2.1"]}, {"pool": 7}, {}):
        with pytest.raises(Unusable):
            egress_ip("shop", **cast("dict[str, Any]", spec))


# What is said


def maker(found: ApiObjects) -> StatusMaker:
    grouping = Grouping()
    grouping.follow(found)
    return StatusMaker(found, decide(cluster_state(found, {}, None)), selected(grouping, found))


@pytest.mark.parametrize(
    ("pools", "given_before", "reason", "words"),
    [
        ((), (), "NoPool", "there is no such EgressIPPool"),
        ((FREE,), (), "Pending", "gives an IPv4 address in a moment"),
        ((pool("a", "192.0.2.64/32"),), ("192.0.2.64",), "PoolExhausted", "no free IPv4 address; 1 of 1 are given"),
        ((pool("a", "192.0.2.9-192.0.2.8"),), (), "PoolExhausted", "is no range"),
    ],
)
def test_why_there_is_no_address(
    pools: tuple[EgressIPPool, ...], given_before: tuple[str, ...], reason: str, words: str
) -> None:
    value = egress_ip("shop", pool="a")
    found = objects(*pools, value, *(assignment(ip, "other", "a") for ip in given_before))
    ready = ready_of(maker(found).status(found.egress_ips[value.uid]))
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert words in ready["message"]


def test_a_pool_says_how_many_are_left() -> None:
    def said(*values: EgressIP | EgressIPPool | Assignment) -> tuple[dict[str, int], str, str]:
        status = maker(objects(FREE, *values)).pool_status(FREE)
        (condition,) = status["conditions"]
        return status["usage"], condition["status"], condition["reason"]

    assert said() == ({"total": 6, "used": 0}, "False", "FreeAddresses")
    listed = egress_ip("x", egressIPs=["192.0.2.64", "192.0.2.1"])
    assert said(listed)[0] == {"total": 6, "used": 1}
    both = [assignment(ip, "shop", "a") for ip in ("2001:db8::", "2001:db8::1")]
    assert said(*both) == ({"total": 6, "used": 2}, "True", "NoFreeAddress")


# Giving, against a server that keeps one object of a name


class Server:
    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}

    def request(self, method: str, path: str, _query: Any = None, body: Any = None, **_: Any) -> dict[str, Any]:
        if "events" in path:
            return {}
        if method == "DELETE":
            name = path.removeprefix(f"{api_objects.ASSIGNMENTS}/")
            assert body["preconditions"] == {"uid": f"uid-{name}", "resourceVersion": "1"}
            return self.objects.pop(name)
        assert (method, path) == ("POST", api_objects.ASSIGNMENTS)
        name = body["metadata"]["name"]
        if name in self.objects:
            raise ApiError(CONFLICT, "AlreadyExists", name)
        self.objects[name] = {**body, "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"}}
        return self.objects[name]


class Followed:
    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    def objects(self) -> Mapping[str, Any]:
        return dict(self.values)

    def assume(self, raw: Mapping[str, Any]) -> None:
        self.values[raw["metadata"]["uid"]] = api_objects.assignment(raw)

    def forget(self, uid: str) -> None:
        del self.values[uid]


class Replica:
    """A controller as far as pools go; ``holds`` is what it believes of the lease."""

    def __init__(self, server: Server, known: ApiObjects) -> None:
        self.known, self.holds, self.notices = known, True, 0
        self.egress_ips, self.assignments = Followed(known.egress_ips), Followed(known.assignments)
        client = cast(Client, server)
        self._writer = PoolWriter(
            client,
            cast(KubernetesSource, self),
            cast(KubernetesLease, self),
            lambda: 1,
            Events(client, "x", "x", print),
        )

    def held(self) -> bool:
        return self.holds

    def notice(self) -> None:
        self.notices += 1

    def give(self) -> int:
        return self._writer.give(self.known, 50, lambda: None)


def owners(server: Server) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for raw in server.objects.values():
        found.setdefault(raw["spec"]["givenTo"]["egressIP"], []).append(raw["spec"]["egressIP"])
    return found


def test_each_is_given_its_own_and_only_once() -> None:
    server = Server()
    known = objects(FREE, egress_ip("new", "2026-02-01", pool="a"), egress_ip("old", "2026-01-01", pool="a"))
    replica = Replica(server, known)
    assert replica.give() == 4
    assert replica.notices == 1
    assert {name: sorted(family(address_key(ip) or 0) for ip in ips) for name, ips in owners(server).items()} == {
        "old": [4, 6],
        "new": [4, 6],
    }
    assert replica.give() == 0, "what was given counts before the watch tells of it"


def test_the_oldest_is_served_first() -> None:
    server = Server()
    scarce = pool("a", "192.0.2.64/32")
    known = objects(scarce, egress_ip("new", "2026-02-01", pool="a"), egress_ip("old", "2026-01-01", pool="a"))
    assert Replica(server, known).give() == 1
    assert owners(server) == {"old": ["192.0.2.64"]}


@given(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=12))
def test_controllers_that_know_nothing_of_each_other_give_nothing_twice(turns: list[int]) -> None:
    """As one that was frozen and does not know that it was replaced, and one that has just begun."""
    server = Server()
    values = [egress_ip(f"n{number}", pool="a") for number in range(3)]
    replicas = [Replica(server, objects(FREE, *values[: number + 1])) for number in range(3)]
    for turn in turns:
        replicas[turn].give()
    given_out = [raw["spec"]["egressIP"] for raw in server.objects.values()]
    assert len(given_out) == len(set(given_out)), "positive control of the fake"
    authority = {raw["metadata"]["uid"]: api_objects.assignment(raw) for raw in server.objects.values()}
    effective = with_given({value.uid: value for value in values}, authority)
    taken = [ip for value in effective.values() for ip in value.egress_ips]
    assert len(taken) == len(set(taken))


def test_an_address_that_no_node_got_comes_back_when_its_egress_ip_is_gone() -> None:
    """The record of what nodes have does not change for it, so it is not written."""
    server = Server()
    scarce = pool("a", "192.0.2.64/32")
    gone, waits = egress_ip("gone", "2026-01-01", pool="a"), egress_ip("waits", "2026-02-01", pool="a")
    replica = Replica(server, objects(scarce, gone, waits))
    assert replica.give() == 1
    assert owners(server) == {"gone": ["192.0.2.64"]}
    del replica.egress_ips.values[gone.uid]
    assert replica.give() == 2
    assert owners(server) == {"waits": ["192.0.2.64"]}
    assert replica.give() == 0


def test_a_lease_that_is_lost_gives_nothing() -> None:
    server = Server()
    replica = Replica(server, objects(FREE, egress_ip("shop", pool="a")))
    replica.holds = False
    with pytest.raises(TryAgainError):
        replica.give()
    assert server.objects == {}


def test_what_the_status_says_comes_back_after_the_objects_were_lost() -> None:
    """Assignments that somebody deleted, or that a backup does not have."""
    server = Server()
    status = {"egressIPs": ["192.0.2.66", "2001:db8::1"]}
    assert Replica(server, objects(FREE, egress_ip("shop", pool="a", status=status))).give() == 2
    assert sorted(owners(server)["shop"]) == ["192.0.2.66", "2001:db8::1"]


def test_what_others_have_made_costs_no_more_requests_than_the_server_should_have_to_bear() -> None:
    """A controller that knows nothing of what was given finds every address taken."""
    server = Server()
    large = pool("a", "192.0.2.0/24")
    values = [egress_ip(f"n{number}", pool="a") for number in range(200)]
    assert Replica(server, objects(large, *values)).give() == 50
    asked = 0
    request = server.request

    def counted(method: str, path: str, *rest: Any, **more: Any) -> dict[str, Any]:
        nonlocal asked
        asked += path == api_objects.ASSIGNMENTS
        return request(method, path, *rest, **more)

    server.request = counted  # type: ignore[method-assign]
    Replica(server, objects(large, *values)).give()
    assert 0 < asked <= 50
