"""Labs and images for tests of real containers. The images stand on the Debian release that SUITE names, as those of
scripts/build-images do: ``SUITE=bookworm scripts/test images`` tries them on Debian 12.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.images.container import has_image

LOCK = Path("/run/lock/egress-router-images")
#: Seconds that building them may take, on a busy machine and without a layer to begin with.
BUILD_TIMEOUT = 3600
CHECKOUT = Path(__file__).parents[2]
#: What the images are made of.
SOURCES = ("Containerfile.*", "LICENSE", "pyproject.toml", "images/*", "requirements/*", "scripts/build-images")


@pytest.fixture(scope="session")
def tag() -> str:
    """Build the images and return their tag. What is unchanged since an earlier run is taken from podman's storage."""
    version = "-".join(filter(None, ("test", os.environ.get("SUITE"), digest())))
    images = [f"localhost/egress-router-{name}:{version}" for name in ("init", "proxy", "dns", "node")]
    # Tests may run in several processes, of which one builds.
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(map(has_image, images)):
            command = [str(CHECKOUT / "scripts/build-images"), "--bootstrap"]
            subprocess.run(
                command,
                env={**os.environ, "VERSION": version, "PREFIX": "localhost/"},
                check=True,
                timeout=BUILD_TIMEOUT,
            )
    return version


def digest() -> str:
    """Return a name for the present state of everything that ends up in an image."""
    files = [path for pattern in SOURCES for path in CHECKOUT.glob(pattern)]
    files += [path for path in (CHECKOUT / "egress_router").rglob("*") if path.suffix in (".py", ".j2")]
    known = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file() and "lab" not in path.relative_to(CHECKOUT).parts):
        known.update(f"{path.relative_to(CHECKOUT)}\0".encode() + path.read_bytes() + b"\0")
    return known.hexdigest()[:16]


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab with one node whose pods have a bridge, as those of OpenShift SDN do."""
    with Lab(nodes=1, shape="bridge") as lab:
        yield lab
