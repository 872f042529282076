"""Source ports of an egress IP in use, as the holder's kernel tells."""

from __future__ import annotations

import json
import sys
import textwrap
from contextlib import ExitStack

import pytest

from tests.egressip.kernel.egress_scene import FAMILY, SERVICES, TOTO, Scene

pytestmark = [pytest.mark.root, pytest.mark.parametrize("version", [4, 6])]

COUNT = """
    import json, sys
    from collections import Counter
    from ipaddress import ip_address
    from egress_router.net.conntrack import Conntrack, insert_failures
    with Conntrack() as conntrack:
        used = Counter(conntrack.ports_used([ip_address(sys.argv[1])]))
    found = [[str(use.source), str(use.protocol), str(use.remote), use.port, count] for use, count in used.items()]
    print(json.dumps({"used": found, "failures": insert_failures()}))
"""


def test_connections_of_all_pods_count_by_where_they_go(scene: Scene, version: int) -> None:
    """Pods of other nodes and the holder's own share the ports."""
    holder = scene.lab.nodes[1]
    with ExitStack() as stack:
        for pod in (scene.client, scene.local, scene.client):
            stream = stack.enter_context(pod.socket(FAMILY[version]))
            stream.connect((SERVICES[version], 80))
        script = textwrap.dedent(COUNT)
        told = json.loads(holder.run([sys.executable, "-c", script, TOTO[version]]).stdout)
    ours = [row for row in told["used"] if row[1:4] == ["tcp", SERVICES[version], 80]]
    assert ours, told
    assert ours[0][0] == TOTO[version]
    assert ours[0][4] >= 3
    assert told["failures"] == 0
    assert all(row[0] == TOTO[version] for row in told["used"])
