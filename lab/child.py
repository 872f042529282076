"""Programs of ``children/`` that run beside the lab and are spoken to in JSON lines."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lab.patience import patient
from lab.process import end
from lab.worker import CHILDREN


class Child:
    """A program of ``children/`` that runs until its standard input closes.

    It prints one JSON line when it is ready, and one for each line that ``ask`` sends.
    """

    def __init__(
        self,
        program: str,
        settings: Mapping[str, Any],
        *,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        packages: bool = False,
        stderr: int | None = None,
    ) -> None:
        self.program = program
        self.process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                "-I",
                *([] if packages else ["-S"]),
                str(CHILDREN / program),
                json.dumps(settings),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._rest = b""
        try:
            self._answer(10.0)
        except BaseException:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any], timeout: float = 10.0) -> Any:
        """Send a request and return the answer; RuntimeError when the child reports one or has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"{self.program} ended with {self.process.wait()}") from None
        return self._answer(timeout)

    def _answer(self, timeout: float) -> Any:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + patient(timeout)
        while b"\n" not in self._rest:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"{self.program} did not answer within {timeout} s")
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                raise RuntimeError(f"{self.program} ended with {self.process.wait()}; its stderr says why")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.program}: {answer['error']}")
        return answer.get("result")

    def close(self) -> None:
        """Close its standard input, which ends it, and reap it."""
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        end(self.process)
