"""The few requests that the lab itself makes of an API server."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.kubernetes import namespace
from lab.kubernetes.errors import ClusterError
from lab.patience import patient


class ApiError(ClusterError):
    """The server refused a request; ``status`` is HTTP's."""

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        self.status = status
        super().__init__(f"{method} {path}: {status} {body.strip()}")


class ApiClient:
    """Asks an API server at ``address`` in the network namespace ``network`` (a path), one connection a request."""

    def __init__(self, network: str, address: str, port: int, ca: Path, token: str) -> None:
        self._network, self._address, self._port, self._ca, self._token = network, address, port, ca, token
        self._context: ssl.SSLContext | None = None

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        timeout: float = 10.0,
        token: str | None = None,
    ) -> Any:
        """Return the answer, decoded where it is JSON. Raises ApiError when it is no success, OSError without one."""
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self._ca))
            # The lab's authority is a plain one of OpenSSL's, which Python 3.13 is too strict for.
            self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        with namespace.connect(self._network, self._address, self._port, timeout) as plain:
            connection = http.client.HTTPSConnection(self._address, self._port, timeout=timeout)
            connection.sock = self._context.wrap_socket(plain, server_hostname=self._address)
            headers = {"Authorization": f"Bearer {token or self._token}", "Accept": "application/json"}
            if body is not None:
                headers["Content-Type"] = content_type
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
        if answer.status >= 300:
            raise ApiError(method, path, answer.status, text)
        return json.loads(text) if (answer.headers.get_content_type() == "application/json") else text

    def get(self, path: str) -> Any:
        """Return what lies at a path."""
        return self.request("GET", path)

    def ready(self, *, roles: bool = True) -> bool:
        """Return whether the server serves, and has made the ``roles`` of every cluster."""
        path = "/readyz" if roles else "/readyz?exclude=poststarthook/rbac/bootstrap-roles"
        try:
            return bool(self.request("GET", path, timeout=2.0) == "ok")
        except (OSError, ApiError, http.client.HTTPException):
            return False


def wait_until(what: str, holds: Callable[[], bool], timeout: float, pause: float = 0.05) -> float:
    """Return after how many seconds ``holds()`` was true; ClusterError when it is not within ``timeout`` seconds (more
    on slow machines).
    """
    begun, timeout = time.monotonic(), patient(timeout)
    while not holds():
        if time.monotonic() - begun > timeout:
            raise ClusterError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)
    return time.monotonic() - begun
