"""Addresses, configurations and images as they are written."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import tarfile
from pathlib import Path

import pytest

from lab.kubernetes import credentials, images, network
from lab.kubernetes.errors import UsageError
from lab.kubernetes.plan import PODS4, PODS6, Plan, address4, address6


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"nodes": 21}, {"cni": "calico"}, {"proxy": "ipvs"}])
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Plan(**wrong)  # type: ignore[arg-type]


def test_addresses_read_alike_in_both_families() -> None:
    assert Plan(nodes=2).joined == {"outside": 1, "api": 10, "node-1": 11, "node-2": 12}
    assert (address4(12), address6(12)) == ("192.0.2.12", "2001:db8:2::12")


def test_nodes_have_the_ranges_that_the_controller_manager_would_give_them() -> None:
    ranges = Plan(nodes=12).pod_ranges
    assert ranges["node-1"] == ("10.128.0.0/24", "fd01::/64")
    assert ranges["node-2"] == ("10.128.1.0/24", "fd01:0:0:1::/64")
    assert ranges["node-12"] == ("10.128.11.0/24", "fd01:0:0:b::/64")
    for pods, of_node in ((PODS4, 0), (PODS6, 1)):
        given = [ipaddress.ip_network(both[of_node]) for both in ranges.values()]
        assert len(set(given)) == 12
        assert all(one.subnet_of(ipaddress.ip_network(pods)) for one in given)  # type: ignore[arg-type]


def test_a_node_s_pods_get_addresses_of_its_own_ranges() -> None:
    conflist = json.loads(network.bridge_conflist(["10.128.1.0/24", "fd01:0:0:1::/64"]))
    ipam = conflist["plugins"][0]["ipam"]
    assert ipam["ranges"] == [[{"subnet": "10.128.1.0/24"}], [{"subnet": "fd01:0:0:1::/64"}]]
    assert ipam["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


def test_kubelets_are_in_the_group_that_the_node_authorizer_asks_for() -> None:
    assert credentials.groups(credentials.node_user("node-1")) == ("system:nodes",)
    assert credentials.groups(credentials.ADMIN) == ("system:masters",)
    assert credentials.groups(credentials.PROXY) == ()


def test_an_image_s_archive_names_every_blob_by_its_digest(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    images.write_program(tmp_path / "image.tar", "lab.local/program:1", program)
    with tarfile.open(tmp_path / "image.tar") as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    index = json.loads(content["index.json"])
    [described] = index["manifests"]
    assert described["annotations"]["io.containerd.image.name"] == "lab.local/program:1"
    manifest = json.loads(content["blobs/sha256/" + described["digest"][7:]])
    for blob in (described, manifest["config"], *manifest["layers"]):
        data = content["blobs/sha256/" + blob["digest"][7:]]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (blob["size"], blob["digest"][7:])
    config = json.loads(content["blobs/sha256/" + manifest["config"]["digest"][7:]])
    assert config["config"]["Entrypoint"] == ["/program"]
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
