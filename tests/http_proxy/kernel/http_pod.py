"""A router pod that runs `egress-router http-proxy` the way a restricted pod does, and a client for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lab import Lab
from lab.host import Host
from lab.patience import patient
from tests.support.image_view import ARGUMENTS, PROGRAM, SEE_IMAGE

PORT = 8080
#: A pod has a /dev/shm of its own, which outlives its containers.
CONTAINER = f"""{SEE_IMAGE}
mount --bind "$1/shm" /dev/shm
shift 4
exec "$@"
"""
#: Any user, group 0, no capability, nothing can give one back.
RESTRICTED = ["setpriv", "--reuid=1000730000", "--regid=0", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]


class Proxy:
    """The proxy container. ``work`` holds its writable directory, its policy file and what it printed."""

    def __init__(self, lab: Lab, router: Host | None = None) -> None:
        self.lab = lab
        self.pod = router or lab.pod("router")
        # glibc waits 5 s for the answer that the race of two parallel questions in connection tracking loses.
        self.pod.set_resolv_conf(f"nameserver {lab.dns.address}\noptions single-request-reopen timeout:1\n")
        self.work = Path(tempfile.mkdtemp(prefix="egress-http-"))
        self.work.chmod(0o777)
        self.run_directory = self.work / "run"
        self.run_directory.mkdir()
        self.run_directory.chmod(0o777)
        self.image = self.work / "image"
        # A pod has a /dev/shm of its own, which outlives its containers.
        self.shm = self.work / "shm"
        self.shm.mkdir()
        self.shm.chmod(0o1777)
        self.file = self.work / "policy"
        self.program = PROGRAM
        self.process: subprocess.Popen[Any] | None = None
        self.starts = 0

    def start(
        self,
        policy: str | None = None,
        env: Mapping[str, str] | None = None,
        prefix: list[str] | None = None,
        *,
        wait: bool = True,
        become: list[str] = RESTRICTED,
        stdout: int | None = None,
    ) -> None:
        self.starts += 1
        # Lines of one Squid's log come in order, those of several may not.
        variables = {"EGRESS_RUN_DIR": str(self.run_directory), "EGRESS_HTTP_PROXY_WORKERS": "1"}
        if policy is None:
            variables["EGRESS_HTTP_PROXY_DESTINATION_FILE"] = str(self.file)
        else:
            variables["EGRESS_HTTP_PROXY_DESTINATION"] = policy
        variables |= env or {}
        pod = ["unshare", "--mount", "sh", "-c", CONTAINER, "sh", str(self.work), *ARGUMENTS]
        python = str(self.work / "image/base/bin/python3")
        command = [*pod, *(prefix or []), *become, python, *self.program, "http-proxy"]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = self.pod.popen(command, env=variables, stdout=stdout or out, stderr=err, cwd=str(Path.cwd()))
        if wait:
            self.wait_for("generation 1 is in force")

    @property
    def out(self) -> Path:
        return self.work / f"out-{self.starts}"

    @property
    def err(self) -> Path:
        return self.work / f"err-{self.starts}"

    @property
    def address(self) -> str:
        return str(self.pod.addresses[4])

    def wait_for(self, text: str, seconds: float = 30) -> str:
        deadline = time.monotonic() + patient(seconds)
        while text not in (seen := self.err.read_text()):
            assert self.process
            assert time.monotonic() < deadline, f"{text!r} never came:\n{seen}"
            assert self.process.poll() is None or text in self.err.read_text(), f"it ended:\n{seen}"
            time.sleep(0.02)
        return seen

    def write_policy(self, text: str) -> None:
        fresh = self.work / "policy.new"
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.replace(self.file)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def wait_for_log(self, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + patient(10)
        while len(entries := self.log()) < count:
            assert time.monotonic() < deadline, entries
            time.sleep(0.02)
        return entries

    def squid_pids(self) -> list[int]:
        assert self.process
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = stat.read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "(squid)" in text and os.getsid(int(stat.parent.name)) == int(stat.parent.name):
                parent = int(text.rsplit(")", 1)[1].split()[1])
                if parent == self.supervisor_pid():
                    found.append(int(stat.parent.name))
        return found

    def supervisor_pid(self) -> int:
        """The process that our Popen started, or its descendant where a wrapper forks."""
        assert self.process
        pid = self.process.pid
        while b"egress_router" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return pid

    def stop(self, seconds: float = 40) -> int:
        assert self.process
        if self.process.poll() is None:
            os.kill(self.supervisor_pid(), signal.SIGTERM)
        return self.process.wait(seconds)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if kind and self.starts:
            print(self.err.read_text()[-4000:], self.out.read_text()[-2000:])
        subprocess.run(["rm", "-rf", str(self.work)], check=False)


class Client:
    """A client pod. Requests are raw bytes, so that a test can say anything."""

    def __init__(self, lab: Lab, proxy: Proxy, pod: Host | None = None, name: str = "client") -> None:
        self.pod = pod or lab.pod(name)
        self.proxy = proxy

    def connect(self) -> socket.socket:
        client = self.pod.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(20)
        client.connect((self.proxy.address, PORT))
        return client

    def raw(self, request: bytes) -> bytes:
        with self.connect() as client:
            client.sendall(request)
            reply = b""
            while part := client.recv(65536):
                reply += part
        return reply

    def get(self, url: str, headers: str = "") -> tuple[int, bytes]:
        host = url.split("/")[2]
        reply = self.raw(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n".encode())
        return int(reply.split()[1]), reply

    def status(self, url: str) -> int:
        return self.get(url)[0]

    def tunnel(self, target: str) -> tuple[int, socket.socket]:
        client = self.connect()
        client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        reply = b""
        while b"\r\n\r\n" not in reply and (part := client.recv(1)):
            reply += part
        return int(reply.split()[1]), client
