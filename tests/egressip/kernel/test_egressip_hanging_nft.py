"""A holder whose nft(8) hangs cannot follow what happens: it says so, and others use another holder meanwhile."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from lab import Host
from tests.egressip.kernel.egress_cluster import FIRST, SECOND, EgressCluster, one_client, talking

pytestmark = pytest.mark.root

#: nft in one network namespace hangs as long as the second file is there.
HANGS = """\
#!/bin/sh
if [ -e {flag} ] && [ "$(readlink /proc/self/ns/net)" = "$(cat {flag})" ]; then exec sleep 1000; fi
exec /usr/sbin/nft "$@"
"""


@pytest.fixture
def flag(two_holders: EgressCluster, tmp_path: Path) -> Path:
    """Give all agents an nft that hangs in the namespace that the file names."""
    tools, flag = tmp_path / "tools", tmp_path / "hangs"
    tools.mkdir()
    nft = tools / "nft"
    nft.write_text(HANGS.format(flag=flag))
    nft.chmod(0o755)
    two_holders.prefix = ["env", f"PATH={tools}:{os.environ['PATH']}"]
    return flag


def readyz(cluster: EgressCluster, node: Host) -> str:
    address = str(node.addresses[cluster.world.underlay])
    host = f"[{address}]" if ":" in address else address
    return node.run(["curl", "-sg", "-m", "2", f"http://{host}:9910/readyz"], check=False).stdout


def test_others_use_another_holder(two_holders: EgressCluster, flag: Path) -> None:
    cluster = two_holders
    lab = cluster.lab
    client, first, second, holder = one_client(cluster)
    assert readyz(cluster, holder) == "ready\n", "positive control"
    with lab.capture() as capture, talking(partial(cluster.source_of, client, timeout=0.5)) as heard:
        cluster.until(lambda: bool(heard) and heard[-1][1] == first)
        flag.write_text(holder.run(["readlink", "/proc/self/ns/net"]).stdout.strip())
        start = time.monotonic()
        # So that it looks what others have changed.
        holder.nft("table inet foreign { chain one { }\n}\n")
        cluster.until(lambda: heard[-1][1] == second, 5)
        moved = time.monotonic() - start
        cluster.until(lambda: "hangs: what changes is not put in place" in readyz(cluster, holder), 5)
        told = time.monotonic() - start
        print(f"others use another holder after {moved:.1f} s, /readyz says so after {told:.1f} s")
        assert moved < 4
        begun = len(heard)
        time.sleep(1)
        assert {answer for _, answer in heard[begun:]} == {second}
        assert {answer for _, answer in heard} == {first, second}, "nobody waits meanwhile"
        assert first in holder.ip("-4 addr show dev eth0"), "its address stays: what it translates is not known to all"
        flag.unlink()
        assert not capture.leaks(allowed={FIRST, SECOND})


def test_it_goes_on_where_there_is_no_other_holder(two_holders: EgressCluster, flag: Path) -> None:
    cluster = two_holders
    cluster.namespace("toto", FIRST)
    client = cluster.pod("client", "toto", 0)
    cluster.start()
    cluster.settle()
    holder = cluster.lab.nodes[1]
    with cluster.lab.capture() as capture, talking(partial(cluster.source_of, client, timeout=0.5)) as heard:
        flag.write_text(holder.run(["readlink", "/proc/self/ns/net"]).stdout.strip())
        holder.nft("table inet foreign { chain one { }\n}\n")
        cluster.until(lambda: "hangs: what changes is not put in place" in readyz(cluster, holder), 5)
        time.sleep(1)
        assert {answer for _, answer in heard} == {FIRST}
        flag.unlink()
        assert not capture.leaks(allowed={FIRST})
