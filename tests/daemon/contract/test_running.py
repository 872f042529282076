"""Asking the router that runs here."""

from __future__ import annotations

import socket
import threading
import time

from egress_router.daemon import running


def test_a_page_that_takes_its_time_is_waited_for_by_those_who_want_it() -> None:
    """A report of a long list on a busy machine is no router that does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                client, _ = listener.accept()
                with client:
                    client.recv(1000)
                    time.sleep(0.3)
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        assert running.page("/?report=1", port, 0.1) is None
        assert running.page("/?report=1", port, 10) == b"ok"
