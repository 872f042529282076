"""What is in the images, and what is not."""

from __future__ import annotations

import json

import pytest

from tests.images.container import RUN, podman

pytestmark = [pytest.mark.root, pytest.mark.timeout(600, func_only=True)]
#: Megabytes with the base, uncompressed.
LIMITS = {"init": 120, "proxy": 140, "dns": 140, "node": 120}
VERBS = {"init": ["init"], "proxy": ["http-proxy"], "dns": ["dns-proxy"], "node": []}
#: Those that change a network need it; they have NET_ADMIN and NET_RAW alone.
ROOT = ("init", "node")

every = pytest.mark.parametrize("name", list(LIMITS))


def inspect(name: str, tag: str) -> dict[str, object]:
    found = json.loads(podman("image", "inspect", f"localhost/egress-router-{name}:{tag}").stdout)
    return dict(found[0])


@every
def test_size(tag: str, name: str) -> None:
    size = inspect(name, tag)["Size"]
    assert isinstance(size, int)
    assert size <= LIMITS[name] * 1000**2, f"{size / 1000**2:.1f} MB"


@every
def test_configuration(tag: str, name: str) -> None:
    config = inspect(name, tag)["Config"]
    assert isinstance(config, dict)
    assert config["Entrypoint"] == ["/opt/egress-router/bin/egress-router", *VERBS[name]]
    assert config["User"] == ("0" if name in ROOT else "1001")
    assert config["Labels"]["org.opencontainers.image.version"] == tag
    assert config["Labels"]["io.k8s.display-name"]
    words = " ".join(config["Env"])
    assert "PIP" not in words
    assert "proxy" not in words.lower()


def test_routers_of_a_pair_have_keepalived(tag: str) -> None:
    """VRRP alone: what Debian's package needs besides is 44 MB (LIMITS have no room for it)."""
    script = """
    set -e
    keepalived --version
    ldd /usr/sbin/keepalived
    test -s /usr/share/doc/keepalived/copyright
    """
    image = f"localhost/egress-router-init:{tag}"
    result = podman(*RUN, "--rm", "--network", "none", "--entrypoint", '["sh","-c"]', image, script)
    libraries = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("\t")}
    assert {name for name in libraries if not name.startswith(("linux-vdso", "/lib"))} == {"libc.so.6"}


@every
def test_contents(tag: str, name: str) -> None:
    script = """
    set -e
    for program in gcc cc ld make pip pip3 debootstrap apt-get perl; do
        ! command -v $program || { echo "there is $program"; exit 1; }
    done
    test ! -e /usr/share/squid/errors
    left=$(find /var/cache /tmp /mnt -mindepth 1 ! -type d; find / -xdev -name pip.conf -o -xdev -perm /6000 -type f)
    test -z "$left" || { echo "there is $left"; exit 1; }
    test -z "$(dpkg --list | tail -n +6 | grep -v ^ii)" || { dpkg --list; exit 1; }
    cd /opt/egress-router/lib/python3*/site-packages
    test -e egress_router/cli/__pycache__/main.*.pyc
    test -e egress_router/http_proxy/squid/squid.conf.j2
    test ! -e lab
    test ! -e pip
    egress-router --version
    """
    image = f"localhost/egress-router-{name}:{tag}"
    result = podman(*RUN, "--rm", "--network", "none", "--user", "0", "--entrypoint", '["sh","-c"]', image, script)
    assert "egress-router, version" in result.stdout
