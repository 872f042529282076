"""What differs between the versions of Squid that the tests run with: 5.7 of Debian 12 and 6.13 of Debian 13."""

from __future__ import annotations

import functools
import re
import subprocess


@functools.cache
def squid_version() -> tuple[int, int]:
    """Return the version of the Squid of this machine."""
    text = subprocess.run(["squid", "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Version (\d+)\.(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def unresolved_status() -> int:
    """Return the status of a request for a name that does not resolve: ERR_READ_ERROR's before Squid 6, then
    ERR_DNS_FAIL's.
    """
    return 502 if squid_version() < (6, 0) else 503


def unresolved_page() -> bytes:
    """Return what the page of such an answer says."""
    if squid_version() < (6, 0):
        return b"the name of the server does not resolve"
    return b"The name of the server cannot be resolved"
