"""Labs for tests, in both CNI shapes; a test that fails shows the state of its pods and what was captured."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab import SHAPES, CaptureIncomplete, Lab
from tests.egressip.kernel import egress_cluster
from tests.egressip.kernel.egress_cluster import WORLDS, EgressCluster, World
from tests.egressip.kernel.egress_scene import Scene
from tests.http_proxy.kernel.http_pod import Client, Proxy

LABS = pytest.StashKey[list[Lab]]()
#: Lines of a capture that a report shows.
TAIL = 60


@pytest.fixture(scope="session", autouse=True)
def end_on_sigterm() -> Iterator[None]:
    """Make SIGTERM end the whole run with its clean-up; pytest takes SystemExit for the failure of one test."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("ended by SIGTERM", 128 + signal.SIGTERM))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session", autouse=True)
def own_xtables_lock() -> Iterator[None]:
    """Give each process of the tests a lock of its own for legacy iptables, as pods have one in their own /run. Those
    that run beside each other would fail with "another app is currently holding the xtables lock".
    """
    with tempfile.NamedTemporaryFile(prefix="xtables-", suffix=".lock") as lock, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XTABLES_LOCKFILE", lock.name)
        yield


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    """How pods are connected to their node."""
    return str(request.param)


@pytest.fixture
def make_lab(request: pytest.FixtureRequest) -> Iterator[Callable[..., Lab]]:
    """Build labs that go down after the test; takes the arguments of Lab."""
    labs: list[Lab] = []
    request.node.stash[LABS] = labs
    with ExitStack() as stack:

        def make(nodes: int = 1, shape: str = SHAPES[0]) -> Lab:
            labs.append(stack.enter_context(Lab(nodes=nodes, shape=shape)))
            return labs[-1]

        yield make


@pytest.fixture(params=WORLDS, ids=str)
def world(request: pytest.FixtureRequest) -> World:
    """What the nodes of a cluster with egress IPs are like."""
    assert isinstance(request.param, World)
    return request.param


@pytest.fixture
def two_holders(make_lab: Callable[..., Lab], world: World, tmp_path: Path) -> EgressCluster:
    """Three nodes; the namespace toto has an egress IP on each of the last two. No agent runs yet."""
    return egress_cluster.two_holders(make_lab(nodes=3, shape=world.shape), tmp_path / "state", world)


@pytest.fixture(scope="module", params=WORLDS, ids=str)
def shared_scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A cluster with egress IPs whose agents run, for all tests of a module."""
    with Lab(nodes=3, shape=request.param.shape) as lab:
        yield Scene(lab, tmp_path_factory.mktemp("scene") / "state", request.param)


@pytest.fixture
def scene(request: pytest.FixtureRequest, shared_scene: Scene) -> Iterator[Scene]:
    """The module's cluster as it was in the beginning; a test that changes it puts it back."""
    request.node.stash[LABS] = [shared_scene.lab]
    yield shared_scene
    for capture in shared_scene.lab.captures:
        capture.close()
    shared_scene.lab.captures.clear()


@pytest.fixture
def lab(make_lab: Callable[..., Lab], shape: str) -> Lab:
    """A lab with one node."""
    return make_lab(nodes=1, shape=shape)


@pytest.fixture
def proxy(lab: Lab) -> Iterator[Proxy]:
    """The HTTP proxy's container in a pod, not started yet."""
    with Proxy(lab) as proxy:
        yield proxy


@pytest.fixture
def client(lab: Lab, proxy: Proxy) -> Client:
    """A client pod of the HTTP proxy."""
    return Client(lab, proxy)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter and write to. Those of tmp_path are for their owner alone, and every
    pytest that starts makes them so again.
    """
    with tempfile.TemporaryDirectory(prefix="egress-router-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        yield directory


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach addresses, rules, routes, translations and connections of the pods, and captures, to a failure."""
    report = yield
    if report.when == "call" and report.failed:
        for lab in item.stash.get(LABS, []):
            report.sections.append((f"lab {lab.name} ({lab.shape})", lab.dump(*lab.pods)))
            for capture in lab.captures:
                title = f"captured on {capture.host.name} {capture.interface}, last {TAIL} lines"
                report.sections.append((title, tail_of(capture.text)))
    return report


def tail_of(text: Callable[[], str]) -> str:
    """Return the last lines of a capture, or why there are none."""
    try:
        return "\n".join(text().splitlines()[-TAIL:])
    except (CaptureIncomplete, RuntimeError, OSError) as error:
        return repr(error)


@pytest.fixture(params=["iptables", "nftables"])
def backend(request: pytest.FixtureRequest) -> str:
    """Which part of the kernel translates."""
    return str(request.param)
