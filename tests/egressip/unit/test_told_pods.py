"""What other nodes say of their pods that start: how long it counts, and against whom it does not."""

from __future__ import annotations

import pytest

from egress_router.egressip.api import Pod
from egress_router.egressip.source.api_objects import ApiPod
from egress_router.egressip.source.told_pods import COUNTS, MOST, ToldPods, words
from tests.support.fake_loop import FakeClock

A, B = "198.51.100.2", "198.51.100.3"
GROUPS = {"shop", "lab"}


class Scene:
    """The holder's side: what the API shows there, and what comes of both."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told = ToldPods(self.clock)
        self.known: dict[str, ApiPod] = {}

    def shown(self, uid: str, ip: str, node: str = "b") -> None:
        """Have the API show a pod with an address."""
        self.known[uid] = ApiPod(uid, "n", uid, node, (ip,), ())

    def take(self, uid: str, ip: str, group: str = "shop", node: str = "b", *, signed: bool = True) -> bool:
        return self.told.take(node, {ip: words(group, uid)}, GROUPS, self.known, signed=signed)

    def owners(self, ip: str = A) -> list[tuple[str, str]]:
        """Return group and node of each pod with an address; those of the API are in the group of its name."""
        pods = {("api", uid): Pod("api", uid, pod.node, pod.ips) for uid, pod in self.known.items()}
        return sorted((pod.namespace, pod.node) for pod in self.told.added(pods, self.known).values() if ip in pod.ips)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_pod_counts_from_what_its_node_says_until_the_api_tells_of_it(scene: Scene) -> None:
    assert scene.owners() == []
    assert scene.take("u", A)
    assert scene.owners() == [("shop", "b")]
    assert scene.owners(B) == []
    scene.shown("u", A)
    assert scene.owners() == [("api", "b")], "whose group may be another one by now"
    del scene.known["u"]
    assert scene.owners() == [], "its end is known by the API, too"


def test_what_is_said_counts_for_a_few_seconds_from_the_first_time(scene: Scene) -> None:
    scene.take("u", A)
    scene.clock.now += COUNTS / 2
    assert not scene.take("u", A), "nothing new"
    assert scene.owners() == [("shop", "b")]
    scene.clock.now += COUNTS / 2
    assert scene.owners() == []


def test_a_former_pod_of_the_same_node_gives_way(scene: Scene) -> None:
    """Its end comes later: the address went from one to the other on their node, which knows best."""
    scene.shown("old", A)
    scene.take("new", A)
    assert scene.owners() == [("shop", "b")]
    scene.clock.now += COUNTS
    assert scene.owners() == [("api", "b")]


def test_what_is_not_signed_takes_no_address_from_a_pod_that_the_api_shows(scene: Scene) -> None:
    """Else whoever can send with a node's address could give any of its pods another egress IP; of two groups that have
    one address neither leaves with it.
    """
    scene.shown("old", A)
    assert scene.take("new", A, signed=False)
    assert scene.owners() == [("api", "b"), ("shop", "b")]
    del scene.known["old"]
    assert scene.owners() == [("shop", "b")], "its end is known now"


def test_a_pod_that_the_api_shows_later_is_the_next_one(scene: Scene) -> None:
    scene.take("short", A)
    scene.shown("next", A)
    assert scene.owners() == [("api", "b")]
    del scene.known["next"]
    assert scene.owners() == [], "what was said before does not come back"


@pytest.mark.parametrize("first", ["api", "word"])
def test_nobody_speaks_for_an_address_of_another_node(scene: Scene, first: str) -> None:
    if first == "api":
        scene.shown("u", A, node="c")
    scene.take("v", A, node="b")
    if first == "word":
        scene.shown("u", A, node="c")
    assert scene.owners() == [("api", "c")]


def test_another_word_of_the_same_address_takes_its_place(scene: Scene) -> None:
    scene.take("u", A, "shop")
    assert scene.take("v", A, "lab")
    assert scene.owners() == [("lab", "b")]
    assert scene.take("v", A, "lab", node="c"), "the pods of two nodes never have one address for long"
    assert scene.owners() == [("lab", "c")]


@pytest.mark.parametrize(
    ("ip", "said"),
    [
        (A, "unknown uid"),
        (A, "shop"),
        (A, "shop "),
        (A, ""),
        (A, "- uid"),
        ("nonsense", "shop u"),
        ("0.0.0.0", "shop u"),
    ],
)
def test_what_cannot_be_is_passed_over(scene: Scene, ip: str, said: str) -> None:
    assert not scene.told.take("b", {ip: said}, GROUPS, {}, signed=True)
    assert scene.owners(ip) == []


def test_an_address_is_taken_in_any_spelling_and_no_more_than_so_many(scene: Scene) -> None:
    assert scene.take("u", "2001:DB8::0:1")
    assert scene.owners("2001:db8::1") == [("shop", "b")]
    many = {f"10.{n >> 8}.{n & 255}.9": words("shop", "u") for n in range(MOST + 100)}
    scene.told.take("b", many, GROUPS, {}, signed=True)
    assert len(scene.told.added({}, {})) == MOST
