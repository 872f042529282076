"""Whose an address is, by the container runtime and by the API together."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.egressip.source.api_objects import ApiPod
from egress_router.egressip.source.runtime_pods import GRACE, LIST_AGAIN_MOST, RuntimePods, together
from egress_router.kubernetes.nri import Sandbox
from tests.support.fake_loop import FakeClock

A, B, A6 = "198.51.100.2", "198.51.100.3", "2001:db8::2"
#: As the API gives them, with dashes; those of static pods have none.
U1, U2, STATIC, MIRROR = "1-1", "2-2", "abcdef", "3-3"

addresses = st.lists(st.sampled_from([A, B, A6]), max_size=2, unique=True).map(tuple)
uids, names, no_labels = st.sampled_from([U1, U2, STATIC]), st.sampled_from(["p", "q"]), st.just(())
pods = st.builds(ApiPod, uids, st.just("n"), names, st.just("a"), addresses, no_labels)
api_pods = st.lists(pods.filter(lambda pod: pod.ips), max_size=3).map(lambda found: {pod.uid: pod for pod in found})


def api(uid: str, *ips: str, name: str = "p", labels: tuple[tuple[str, str], ...] = ()) -> dict[str, ApiPod]:
    return {uid: ApiPod(uid, "n", name, "a", ips, labels)}


def sandbox(key: str, uid: str, *ips: str, name: str = "p", labels: tuple[tuple[str, str], ...] = ()) -> Sandbox:
    return Sandbox(key, uid, "n", name, labels, ips)


@given(api_pods, st.lists(st.tuples(pods, st.booleans()), max_size=4))
def test_who_has_an_address_for_sure_has_it_alone(known: dict[str, ApiPod], live: list[tuple[ApiPod, bool]]) -> None:
    found = together(known, live)
    claims: dict[str, set[str]] = {}
    for pod in [*known.values(), *(pod for pod, _ in live)]:
        for ip in pod.ips:
            claims.setdefault(ip, set()).add(pod.uid)
    for ip, everybody in claims.items():
        sure = {pod.uid for pod, is_sure in live if is_sure and ip in pod.ips}
        assert {uid for uid, pod in found.items() if ip in pod.ips} == (sure or everybody)
    assert all(pod.ips and len(set(pod.ips)) == len(pod.ips) for pod in found.values())
    for uid in known.keys() & found.keys():
        assert found[uid].labels == known[uid].labels


@given(api_pods)
def test_without_a_runtime_all_is_as_the_api_says(known: dict[str, ApiPod]) -> None:
    assert together(known, []) == known
    runtime = RuntimePods("a", lambda: None, FakeClock())
    assert runtime.changes(known) == known
    runtime.lost()
    assert runtime.changes(dict(known)) == {}


class Scene:
    """What a runtime says, and what comes of it; nobody waits for anything."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.notices = 0
        self.runtime = RuntimePods("a", self._noticed, self.clock, deadline=0.0)
        self.runtime.listed([])
        self.pods: dict[str, ApiPod] = {}

    def _noticed(self) -> None:
        self.notices += 1

    def owners(self, known: Mapping[str, ApiPod], ip: str = A) -> list[str]:
        """Read, and return who has an address."""
        for uid, pod in self.runtime.changes(known).items():
            if pod is None:
                del self.pods[uid]
            else:
                self.pods[uid] = pod
        return sorted(uid for uid, pod in self.pods.items() if ip in pod.ips)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_pod_is_known_before_the_api_shows_its_address(scene: Scene) -> None:
    before = scene.notices
    scene.runtime.started(sandbox("s", U1, A, A6, labels=(("app", "web"),)))
    assert scene.notices > before
    assert scene.owners({}) == [U1]
    assert scene.pods[U1] == ApiPod(U1, "n", "p", "a", (A, A6), (("app", "web"),))
    known = api(U1, A, A6, labels=(("app", "other"),))
    assert scene.owners(known) == [U1]
    assert scene.pods[U1].labels == (("app", "other"),), "the runtime does not tell of labels that change"
    scene.runtime.stopped("s")
    assert scene.owners(known) == [U1], "the API still shows it"
    assert scene.owners({}) == []


def test_the_next_owner_of_an_address_has_it_while_the_api_shows_the_former(scene: Scene) -> None:
    """An ended pod keeps its address in the API while the container network gives it to another."""
    scene.runtime.started(sandbox("s", U1, A))
    known = api(U1, A)
    assert scene.owners(known) == [U1]
    scene.runtime.stopped("s")
    scene.runtime.started(sandbox("t", U2, A, name="q"))
    assert scene.owners(known) == [U2]
    assert scene.owners({**known, **api(U2, A, name="q")}) == [U2]
    assert scene.owners(api(U2, A, name="q")) == [U2]


def test_a_pod_that_was_deleted_by_force_keeps_its_address_while_its_processes_run(scene: Scene) -> None:
    scene.runtime.started(sandbox("s", U1, A))
    assert scene.owners(api(U1, A)) == [U1]
    assert scene.owners({}) == [U1]
    scene.runtime.stopped("s")
    assert scene.owners({}) == []


def test_an_end_that_was_missed_gives_the_address_up_once_the_api_says_so(scene: Scene) -> None:
    """After a restart of containerd no StopPodSandbox comes for the pods from before."""
    scene.runtime.started(sandbox("s", U1, A))
    known = api(U1, A)
    assert scene.owners(known) == [U1]
    scene.runtime.started(sandbox("t", U2, A))
    assert scene.owners(known) == [U1, U2], "nobody can tell: neither gets an egress address"
    assert scene.owners({}) == [U2]


def test_a_sandbox_made_anew_has_another_address_of_the_same_pod(scene: Scene) -> None:
    scene.runtime.started(sandbox("s", U1, A))
    known = api(U1, A)
    assert scene.owners(known) == [U1]
    scene.runtime.stopped("s")
    scene.runtime.started(sandbox("t", U1, B))
    assert scene.owners(known, B) == [U1]
    scene.runtime.stopped("s")
    assert scene.owners(api(U1, B), B) == [U1]
    assert scene.owners(api(U1, B), A) == []


def test_a_static_pod_is_its_image_in_the_api_by_name(scene: Scene) -> None:
    """The image shows the former run's address at first, and goes and comes back while the pod runs."""
    scene.runtime.listed([sandbox("s", STATIC, A, name="proxy-a")])
    image = api(MIRROR, B, name="proxy-a")
    scene.runtime.started(sandbox("t", U1, B))
    scene.clock.now += GRACE
    assert scene.owners(image) == [STATIC]
    assert scene.owners({**image, **api(U1, B)}, B) == [U1]
    assert not scene.runtime.turn(), "the API knows all"
    assert scene.owners({}) == [STATIC]


def test_while_the_runtime_is_not_heard_its_former_word_is_no_more_than_the_api_s(scene: Scene) -> None:
    """A pod that ends and one that starts meanwhile are told by nobody but the API."""
    scene.runtime.started(sandbox("s", U1, A))
    known = {**api(U1, A)}
    assert scene.owners(known) == [U1]
    scene.runtime.lost()
    assert scene.owners({**known, **api(U2, A)}) == [U1, U2]
    scene.runtime.listed([sandbox("t", U2, A)])
    assert scene.owners({**known, **api(U2, A)}) == [U2]
    scene.runtime.started(sandbox("x", MIRROR, B))
    assert scene.owners({}, B) == [MIRROR]
    scene.runtime.lost()
    scene.clock.now += GRACE + 1
    scene.runtime.lost()
    assert scene.owners({}, B) == [], "it does not come back"


def test_a_sandbox_that_the_api_does_not_know_is_asked_about_again_and_again_but_rarer(scene: Scene) -> None:
    scene.runtime.started(sandbox("s", U1, A))
    scene.owners({})
    asked = []
    for second in range(4000):
        scene.clock.now += 1
        if scene.runtime.turn():
            asked.append(second)
            scene.runtime.listed([sandbox("s", U1, A)])
    assert asked[0] == pytest.approx(2 * GRACE, abs=3)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 2 * GRACE
    assert pauses[-1] == LIST_AGAIN_MOST
    assert scene.owners({}) == [U1], "by the runtime it lives"
    scene.runtime.listed([])
    assert scene.owners({}) == []
    assert not scene.runtime.turn()


def test_pods_on_the_host_s_network_and_what_is_no_address_are_passed_over(scene: Scene) -> None:
    before = scene.notices
    assert scene.runtime.started(sandbox("s", U1))
    assert scene.runtime.started(sandbox("t", U2, "nonsense", "0.0.0.0"))
    assert scene.notices == before
    scene.runtime.started(sandbox("u", U2, "2001:DB8::0:2"))
    assert scene.owners({}, A6) == [U2], "in the spelling of all others"


def test_a_pod_waits_until_what_was_read_is_in_place() -> None:
    news = threading.Event()
    runtime = RuntimePods("a", news.set, deadline=20.0)
    placed: list[bool] = []
    waiting = threading.Thread(target=lambda: placed.append(runtime.started(sandbox("s", U1, A))), daemon=True)
    news.clear()
    waiting.start()
    assert news.wait(10)
    assert runtime.waiting is not None
    assert runtime.waiting.uid == U1
    runtime.in_place()
    waiting.join(0.05)
    assert waiting.is_alive(), "what was in place is older than the pod"
    assert runtime.changes({})
    assert waiting.is_alive(), "it was read, and is not in place yet"
    runtime.in_place()
    waiting.join(10)
    assert placed == [True]
    assert runtime.waiting is None


def test_who_is_told_of_news_knows_that_a_pod_waits() -> None:
    """Else it may be read later, with what comes next."""
    waiting: list[str] = []
    runtime = RuntimePods("a", lambda: waiting.append(runtime.waiting.uid if runtime.waiting else ""), deadline=0.0)
    runtime.started(sandbox("s", U1, A))
    assert waiting == [U1]


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_pod_that_starts_without_its_holder_is_late(*, everywhere: bool) -> None:
    runtime: RuntimePods

    def put_in_place() -> None:
        runtime.changes({})
        runtime.in_place(everywhere=everywhere)

    runtime = RuntimePods("a", lambda: threading.Timer(0.01, put_in_place).start(), deadline=20.0)
    assert runtime.started(sandbox("s", U1, A)) is everywhere


def test_an_agent_that_hangs_costs_all_pods_together_twice_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = RuntimePods("a", lambda: None, deadline=0.01)
    waited: list[float] = []
    wait_for = runtime._changed.wait_for

    def noted(holds: Callable[[], bool], seconds: float) -> bool:
        waited.append(seconds)
        return wait_for(holds, seconds)

    monkeypatch.setattr(runtime._changed, "wait_for", noted)
    assert [runtime.started(sandbox(key, U1, A)) for key in "abc"] == [False, False, False]
    assert waited == [0.01, 0.005, 0.0025]
    runtime.changes({})
    runtime.in_place()
    assert not runtime.started(sandbox("d", U1, A))
    assert waited[-1] == 0.01, "it is back, so it is waited for"
