"""Which backend a machine gets."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from egress_router.config.values import Family
from egress_router.net.iptables import platform
from egress_router.redirect import nat
from egress_router.redirect.values import Backend


@pytest.mark.parametrize(
    ("offered", "wanted", "expected"),
    [
        ((Family.IPV4, Family.IPV6), (Family.IPV4, Family.IPV6), "iptables"),
        ((Family.IPV4,), (Family.IPV4,), "iptables"),
        ((Family.IPV4,), (Family.IPV6,), "nftables"),
        ((Family.IPV4,), (Family.IPV4, Family.IPV6), "nftables"),
        ((), (Family.IPV4,), "nftables"),
    ],
)
def test_auto_takes_iptables_where_every_family_has_it(
    monkeypatch: pytest.MonkeyPatch, offered: tuple[Family, ...], wanted: tuple[Family, ...], expected: str
) -> None:
    monkeypatch.setattr(nat, "available_families", lambda: offered)
    assert nat.choose_backend(Backend.AUTO, wanted).name == expected
    assert nat.choose_backend(Backend.IPTABLES, wanted).name == "iptables"
    assert nat.choose_backend(Backend.NFTABLES, wanted).name == "nftables"


def test_a_family_without_sockets_has_no_iptables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``ipv6.disable=1`` leaves the file of ip6_tables where it is."""
    names = {family: tmp_path / str(family.value) for family in Family}
    for file in names.values():
        file.touch()
    monkeypatch.setattr(platform, "NAMES_FILES", names)
    missing: set[int] = set()

    class Socket:
        def __init__(self, family: int, kind: int) -> None:
            if family in missing:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

        def close(self) -> None:
            pass

    monkeypatch.setattr(socket, "socket", Socket)
    assert platform.available_families() == (Family.IPV4, Family.IPV6)
    missing.add(socket.AF_INET6)
    assert platform.available_families() == (Family.IPV4,)
    names[Family.IPV4].unlink()
    assert platform.available_families() == ()
