"""What our checks accept, Squid accepts, and understands without a warning."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from egress_router.config.inputs import Inputs, Problems
from egress_router.errors import ToolFailed
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.config import SquidPlace, render_squid
from egress_router.http_proxy.squid.files import check
from egress_router.policy.compile import compile_policy
from egress_router.policy.parse import VARIABLE, parse_policy
from egress_router.policy.values import Address, Policy
from tests.http_proxy.unit.strategies import OWN, policy_texts

# The proxies' programs stand in /usr/sbin and come with what root installs.
pytestmark = pytest.mark.root

labels = st.text(alphabet="abz019-_", min_size=1, max_size=8)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
international = st.text(alphabet="aé中ßя☃", min_size=1, max_size=6).map("{}.example".format)
networks4 = st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 32)).map(
    lambda pair: str(IPv4Network(pair, strict=False))
)
networks6 = st.tuples(st.integers(0, (1 << 128) - 1), st.integers(0, 128)).map(
    lambda pair: str(IPv6Network(pair, strict=False))
)
wild = st.text(alphabet='*!.[]:/#"\\%-+()a1 \t', min_size=1, max_size=12)
ports = st.one_of(
    st.just(""),
    st.lists(st.integers(1, 65535), min_size=1, max_size=4).map(lambda some: ":" + ",".join(map(str, some))),
)
lines = st.tuples(
    st.sampled_from(["", "", "!"]),
    st.one_of(names, names.map("*.{}".format), international, networks4, networks6.map("[{}]".format), wild),
    ports,
).map("".join)
texts = st.one_of(st.lists(lines, min_size=1, max_size=40).map("\n".join), policy_texts(30))


def accepted(text: str) -> Policy | None:
    """The policy of those lines that are accepted one by one."""
    kept = [line for line in text.split("\n") if parse_policy(Inputs({VARIABLE: line}), Problems())]
    return parse_policy(Inputs({VARIABLE: "\n".join(kept)}), Problems())


def squid_parses(policy: Policy, directory: Path, own: Sequence[Address] = ()) -> None:
    place = SquidPlace(directory=str(directory))
    for name, content in render_squid(compile_policy(policy, own), HttpSettings(), place).items():
        (directory / name).write_text(content)
    check("squid", directory / "squid.conf")


@pytest.mark.timeout(200)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(texts)
def test_squid_parses_all_that_we_accept(tmp_path: Path, text: str) -> None:
    if policy := accepted(text):
        squid_parses(policy, tmp_path, OWN)


def test_large_policies(tmp_path: Path) -> None:
    for text in (
        "\n".join(f"{'!' if n % 2 else ''}host-{n}.example.com" for n in range(10_000)),
        "\n".join(f"{'!' if n % 2 else ''}10.{n // 250}.{n % 250}.0/25" for n in range(10_000)),
        "\n".join(f"10.0.{n // 250}.{n % 250 + 1}:{n % 60 + 1}" for n in range(2_000)),
        "\n".join(f"10.0.0.{n + 1}\n!n{n}.com" for n in range(100)),
        "\n".join(f"n{n}.com\n!10.0.{n // 250}.{n % 250 + 1}" for n in range(1_000)),
        "a.com:" + ",".join(str(n) for n in range(1, 65535, 2)),
        "\n".join(
            "!" * (n % 2) + "a." * (120 - n) + "com\n" + "!" * (n % 2) + "*." + "a." * (119 - n) + "com"
            for n in range(100)
        ),
    ):
        policy = accepted(text)
        assert policy
        squid_parses(policy, tmp_path)


@pytest.mark.parametrize("entry", ["0.0.0.0/0", "10.0.0.0/8\n10.1.0.0/16", "10.0.0.0/33", "x.example"])
def test_the_check_refuses_what_squid_only_shrugs_at(tmp_path: Path, entry: str) -> None:
    """The control: a set that Squid reads differently, or not at all, does not pass."""
    (tmp_path / "set").write_text(entry + "\n")
    conf = tmp_path / "squid.conf"
    conf.write_text(f'http_port 8080\nacl x dst "{tmp_path}/set"\nhttp_access deny x\n')
    plain = subprocess.run(["squid", "-N", "-k", "parse", "-f", str(conf)], capture_output=True, check=False)
    if entry.startswith(("0", "10.0.0.0/8")):
        assert plain.returncode == 0, "Squid itself is content"
    with pytest.raises(ToolFailed):
        check("squid", conf)
