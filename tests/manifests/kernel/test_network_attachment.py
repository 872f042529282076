"""The network attachment that `manifests` writes, made by real CNI plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import Lab
from lab.cni_plugins import attached
from tests.redirect.kernel.router import SOURCE6, Router
from tests.redirect.kernel.test_redirect_given_addresses import advertise, wait_for

pytestmark = pytest.mark.root
GOLDEN = Path(__file__).parents[1] / "golden" / "manifests"


def plugins(case: str) -> list[dict[str, Any]]:
    """Return the plugins of the attachment that a case has, on the NIC of the lab's nodes."""
    for item in yaml.safe_load_all((GOLDEN / case / "manifests.yaml").read_text()):
        if item["kind"] == "NetworkAttachmentDefinition":
            config = json.loads(item["spec"]["config"])
            return [{**one, "master": "eth0"} if "master" in one else one for one in config["plugins"]]
    raise AssertionError(f"{case} has no network attachment")


@pytest.mark.parametrize("case", ["http-proxy-settings", "redirect-kubernetes"])
@pytest.mark.parametrize("whole", [True, False], ids=["as-written", "macvlan-alone"])
def test_router_advertisements_give_a_pod_nothing(make_lab: Any, case: str, whole: bool) -> None:
    """Before `init` runs, and without any right to write to /proc/sys in the pod."""
    lab: Lab = make_lab(nodes=1, shape="bridge")
    router = Router(lab, "nftables", macvlan=False)
    pod = router.host
    chain = plugins(case)
    assert [one["type"] for one in chain] == ["macvlan", "tuning"]
    pod.sysctl("net.ipv6.conf.default.accept_ra", 1)
    with attached(lab.nodes[0], pod, "macvlan0", *(chain if whole else chain[:1])):
        wait_for(lambda: "fe80" in pod.ip("-6 addr show dev macvlan0") and "tentative" not in pod.ip("-6 addr show"))
        advertise(router)
        # Positive control: without the tuning plugin they do.
        wait_for(lambda: whole or "2001:db8:9:" in pod.ip("-6 addr show dev macvlan0"))
        if whole:
            # Once a later question is answered, the advertisement was taken in, or never will be.
            pod.run(["ping", "-6", "-c", "1", "-W", "2", "fe80::1%macvlan0"], check=False)
            assert "2001:db8:9:" not in pod.ip("-6 addr show dev macvlan0")
            assert "proto ra" not in pod.ip("-6 route show")
            assert (pod.sysctl("net.ipv6.conf.all.forwarding") == "1") == (case == "redirect-kubernetes")
        mode = "init" if case == "redirect-kubernetes" and whole else "http-proxy"
        router.init(
            EGRESS_ROUTER_MODE=mode, EGRESS_DESTINATION=None if mode != "init" else router.env["EGRESS_DESTINATION"]
        )
        assert SOURCE6 in pod.ip("-6 addr show dev macvlan0")
