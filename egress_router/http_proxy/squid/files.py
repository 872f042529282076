"""What a Squid of ours leaves on disk and in memory, and what it says about a configuration."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from egress_router.errors import PlatformError, ToolFailed

#: Service names, and so the names of segments in /dev/shm, begin like this.
SERVICE_PREFIX = "egressrouter"
CHECK_TIMEOUT = 120.0

PROGRAM = "squid"
OPENSSL_PROGRAM = "squid-openssl"
#: Squid shrugs off sets that it does not understand as we do; we do not.
REFUSED = re.compile(r"FATAL|ERROR|is ignored to keep splay tree|is a subdomain of|Bungled|aclParse")
#: What stands before every message of Squid.
STAMP = re.compile(r"^[0-9/]+ [0-9:]+(?: kid[0-9]+)?\| ?")


def released(conf: str) -> str:
    """Return a configuration that only the supervisor can reach, and that ends connections with their next answer."""
    return re.sub("^http_port .*$", "client_persistent_connections off", conf, count=1, flags=re.MULTILINE)


def keepalive_environment(env: Mapping[str, str]) -> dict[str, str] | None:
    """Return the environment in which a Squid's connections to servers are probed too; None where that needs a library
    that is not there. Squid itself can switch keepalive on for its clients alone.
    """
    library = next((path for path in KEEPALIVE_LIBRARIES if Path(path).exists()), None)
    if library is None:
        return None
    preload = f"{library} {env.get('LD_PRELOAD', '')}".strip()
    return {**env, "LD_PRELOAD": preload, "KEEPALIVE": "on", "KEEPIDLE": "60", "KEEPINTVL": "15", "KEEPCNT": "4"}


def unused_address() -> tuple[str, int]:
    """Return an address of 127.0.0.0/8, which is the pod's own, and a port there that nobody uses now."""
    address = f"127.{secrets.randbelow(255)}.{secrets.randbelow(255)}.{secrets.randbelow(254) + 1}"
    with socket.create_server((address, 0)) as probe:
        return address, probe.getsockname()[1]


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Write the files of a generation, but for those that are there already: ext4 brings what is overwritten to the
    disk before it goes on (auto_da_alloc), which takes a tenth of a second for the error pages alone. PlatformError
    when the directory is not writable.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            place = directory / name
            if _holds(place, text):
                continue
            place.parent.mkdir(exist_ok=True)
            # The parent proxy's password is in one of them.
            place.touch(mode=0o600)
            place.write_text(text)
    except OSError as error:
        raise PlatformError(
            f"{directory} cannot be written ({error.strerror}); mount an emptyDir there, or name another writable "
            "directory with EGRESS_RUN_DIR"
        ) from error


def _holds(place: Path, text: str) -> bool:
    try:
        return place.read_bytes() == text.encode()
    except FileNotFoundError:
        return False


def program_for(*, openssl: bool) -> str:
    """Return Squid's program. Debian 13 has one of its own for OpenSSL, which may stand beside the other one."""
    return OPENSSL_PROGRAM if openssl and shutil.which(OPENSSL_PROGRAM) else PROGRAM


def require_openssl(program: str) -> None:
    """Raise PlatformError where Squid cannot read ClientHellos: it is built with GnuTLS or with no TLS at all."""
    try:
        result = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=CHECK_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlatformError(f"{program} cannot be run: {error}") from error
    if "--with-openssl" not in result.stdout:
        raise PlatformError(
            "EGRESS_HTTP_PROXY_CONNECT_SNI=check needs a Squid with OpenSSL, and this one has none: Debian's package "
            "squid-openssl in the place of squid (an image of your own: --build-arg SQUID=squid-openssl)"
        )


@cache
def unused_certificate() -> str:
    """Return a new key and a certificate of its own, as PEM. Squid asks for one wherever it reads ClientHellos, and
    shows it to clients whose tunnel it refuses; made here, so that nobody else has the key. Raises PlatformError.
    """
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += [
        "-keyout",
        "-",
        "-out",
        "-",
        "-days",
        "3650",
        "-subj",
        "/CN=refused by the proxy",
        "-config",
        "/dev/null",
    ]
    why = "EGRESS_HTTP_PROXY_CONNECT_SNI=check needs the program openssl, for a key of this container's own"
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlatformError(f"{why}: {error}") from error
    if result.returncode:
        raise PlatformError(f"{why}; it ended with {result.returncode}: {result.stderr.strip()[-300:]}")
    return result.stdout


def check(program: str, conf: Path) -> None:
    """Have Squid parse a configuration. ToolFailed when it refuses it or understands it differently."""
    command = [program, "-N", "-k", "parse", "-f", str(conf)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT, check=False)
    except OSError as error:
        raise PlatformError(f"{program} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(command, "timeout", f"no answer within {CHECK_TIMEOUT:g} s") from error
    lines = [STAMP.sub("", line) for line in (result.stdout + result.stderr).splitlines()]
    # It repeats every line of the configuration, one of which may have the parent proxy's password.
    lines = [line for line in lines if not line.startswith("Processing")]
    wrong = [line for line in lines if REFUSED.search(line)]
    if result.returncode or wrong:
        raise ToolFailed(command, result.returncode, "\n".join(wrong or lines[-5:]))


def remove_segments(living: Iterable[str], directory: Path = Path("/dev/shm")) -> None:  # noqa: S108  # Linux fixes it
    """Remove shared memory that a killed Squid of ours left: the next one dies with "File exists" over it."""
    alive = set(living)
    for path in directory.glob(SERVICE_PREFIX + "*"):
        if path.name.partition("-")[0] not in alive:
            with contextlib.suppress(OSError):
                path.unlink()


#: Debian's package libkeepalive0, by name or in the multiarch directory.
KEEPALIVE_LIBRARIES = ("/usr/lib/libkeepalive.so.0", *map(str, Path("/usr/lib").glob("*/libkeepalive.so.0")))
