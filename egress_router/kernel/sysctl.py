"""Kernel parameters under /proc/sys. See sysctl(8)."""

from __future__ import annotations

from pathlib import Path

from egress_router.errors import PlatformError
from egress_router.model.network import Sysctl

ROOT = Path("/proc/sys")


def read_sysctl(item: Sysctl) -> int | None:
    """Return the present value; None when this kernel has no such parameter or it is no number."""
    try:
        return int((ROOT / item.key).read_text())
    except (OSError, ValueError):
        return None


def set_sysctl(item: Sysctl) -> str | None:
    """Set a parameter and read it back. Return None when it holds, else what is wrong with an optional one.

    A read-only /proc/sys where the value is right already is fine. Raises PlatformError for a required parameter that
    cannot be set; the text says what to change.
    """
    if read_sysctl(item) == item.value:
        return None
    try:
        (ROOT / item.key).write_text(str(item.value))
        reason = ""
    except OSError as error:
        reason = error.strerror or str(error)
    actual = read_sysctl(item)
    if actual == item.value:
        return None
    wrong = f"{item.key.replace('/', '.')} is {actual}, {item.value} is needed"
    if reason:
        wrong += f", and it cannot be set ({reason})"
    if item.required:
        raise PlatformError(f"{wrong}. {item.fix}".rstrip())
    return wrong
