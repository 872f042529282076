"""HAProxy's access log on our standard output.

HAProxy writes its own remarks ("Proxy port-80 stopped") to the same place as the access log, so it cannot have our
standard output directly: everything there is JSON, one object a line. A thread of its own reads, so that the log
flows while a reload is being prepared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable

CHUNK = 1 << 16
#: Bytes that HAProxy may be ahead of us before it drops lines; the most that an unprivileged process may ask for.
PIPE_BYTES = 1 << 20


class LogPipe:
    """A pipe that children write to (``write_end``). Lines of JSON are copied to ``output``, others are passed to
    ``remark``.
    """

    def __init__(self, output: int, remark: Callable[[str], None]) -> None:
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._output = output
        self._remark = remark
        self._thread = threading.Thread(target=self._copy, name="access-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Copy what the ended children have written, and stop."""
        os.close(self.write_end)
        self._thread.join(timeout=5)

    def _copy(self) -> None:
        partial = b""
        while data := os.read(self._read_end, CHUNK):
            *lines, partial = (partial + data).split(b"\n")
            entries = [line for line in lines if line.startswith(b"{")]
            if entries:
                self._write(b"\n".join(entries) + b"\n")
            for line in lines:
                if line.strip() and not line.startswith(b"{"):
                    self._remark(line.decode("utf-8", "replace"))
        os.close(self._read_end)

    def _write(self, data: bytes) -> None:
        # Nobody reads our standard output any more: the proxy lives on without a log.
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._output, data) :]
