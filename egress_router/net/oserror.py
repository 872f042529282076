"""An OSError of the kernel becomes one of our errors here and nowhere else. Codes: docs/exit-codes.md, errno(3)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from egress_router.errors import CapabilityError, EgressRouterError, PlatformError, TryAgainError

#: What may be different in a moment: no memory, no buffer, no free descriptor or process, an address that another
#: process still has, an interface that is down.
_PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.EADDRINUSE,
        errno.EBUSY,
        errno.EINTR,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ETIMEDOUT,
    }
)


def from_os(error: OSError, doing: str, capability: str) -> EgressRouterError:
    """Return what an OSError means: CapabilityError (77) naming ``capability`` where it is a lack of permission,
    TryAgainError (75) where it may pass, else PlatformError (69). ``doing`` says what failed.
    """
    code = error.errno
    reason = error.strerror or str(error) or type(error).__name__
    if code in (errno.EPERM, errno.EACCES):
        return CapabilityError(
            f"{doing}: {reason}; the container needs {capability} (securityContext.capabilities.add) or "
            "privileged: true"
        )
    if isinstance(error, TimeoutError):
        return TryAgainError(f"{doing}: no answer from the kernel in time")
    name = f"{errno.errorcode.get(code, str(code))}: " if code is not None else ""
    kind = TryAgainError if code in _PASSING else PlatformError
    return kind(f"{doing}: {name}{reason}")


@contextmanager
def translating(doing: str, capability: str = "NET_ADMIN") -> Iterator[None]:
    """Raise an OSError of the block as what ``from_os`` makes of it."""
    try:
        yield
    except OSError as error:
        raise from_os(error, doing, capability) from error
