"""Which pods may leave with an egress IP."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from egress_router.egressip.api import ClusterState, NetNamespace, Pod
from egress_router.egressip.node.address_users import AddressUsers

IP, IP6, OTHER = "192.0.2.45", "2001:db8:2::45", "192.0.2.46"
PODS = {
    ("shop", "one"): Pod("shop", "one", "a", ("198.51.100.2", "2001:db8:64::2")),
    ("shop", "two"): Pod("shop", "two", "b", ("198.51.101.2",)),
    ("bank", "one"): Pod("bank", "one", "a", ("198.51.100.3",)),
    ("none", "one"): Pod("none", "one", "a", ("198.51.100.4",)),
}
SPACES = {
    "shop": NetNamespace("shop", 1, (IP, "2001:DB8:2:0::45")),
    "bank": NetNamespace("bank", 2, (OTHER,)),
    "none": NetNamespace("none", 3),
}
STATE = ClusterState(SPACES, {}, PODS)


def packed(*texts: str) -> set[bytes]:
    return {ip_address(text).packed for text in texts}


def test_pods_of_a_node_in_the_family_of_the_address() -> None:
    users = AddressUsers(STATE)
    assert users.on("a", IP) == {"198.51.100.2"}
    assert users.on("a", IP6) == {"2001:db8:64::2"}
    assert users.on("b", IP) == {"198.51.101.2"}
    assert users.on("a", OTHER) == {"198.51.100.3"}
    assert users.on("a", "192.0.2.99") == users.on("c", IP) == users.on("a", "127.0.0.1") == set()


def test_an_address_of_two_namespaces_has_no_sole_users_and_a_pod_address_of_two_is_none() -> None:
    users = AddressUsers(STATE)
    assert users.sole(IP) == {
        **dict.fromkeys(packed("198.51.100.2", "2001:db8:64::2"), "a"),
        **dict.fromkeys(packed("198.51.101.2"), "b"),
    }
    both = {**SPACES, "bank": NetNamespace("bank", 2, (IP,))}
    assert AddressUsers(replace(STATE, namespaces=both)).sole(IP) == {}
    reused = {**PODS, ("none", "new"): Pod("none", "new", "b", ("198.51.101.2",))}
    assert set(AddressUsers(replace(STATE, pods=reused)).sole(IP)) == packed("198.51.100.2", "2001:db8:64::2")


def test_they_are_of_a_state_with_the_same_namespaces_and_pods() -> None:
    users = AddressUsers(STATE)
    assert users.are_of(replace(STATE, assignment={"a": (IP,)}))
    assert not users.are_of(replace(STATE, pods=dict(PODS)))
    assert not users.are_of(replace(STATE, namespaces=dict(SPACES)))
