"""Answers HAProxy's question about every connection by name: where does it go?

HAProxy asks over a Unix socket (route.lua), a line each way. The question: ``tls`` or ``http``, the client's address,
the port, and the name that it asked for, its bytes in hexadecimal. The answer: the address to connect to (``-``: none),
the status that an HTTP client gets where there is none (201: an address in the cluster), and what the log says about
it, as JSON in Base64. HAProxy passes that on to the log as it is, so nothing there is the client's to write.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from egress_router.config.fields import Invalid, host_name
from egress_router.config.values import Address
from egress_router.dns_proxy.by_name.addresses import NameAddresses
from egress_router.dns_proxy.by_name.reach import Reach
from egress_router.errors import printable
from egress_router.policy.evaluate import Verdict, literal_address
from egress_router.policy.judge import Judge, denying
from egress_router.policy.values import from_number, to_number

log = logging.getLogger(__name__)

#: A question is answered within so many seconds, or the connection is refused: less than HAProxy's own patience.
ANSWER_SECONDS = 20.0
#: Longer names than any that there is are refused by their length.
LONGEST_QUESTION = 4096
SHOWN = 200
#: The status of an answer whose address is in the cluster.
INSIDE = 201


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a connection goes (None: nowhere), the status for an HTTP client otherwise, and the members of the log."""

    address: Address | None
    status: int
    record: Mapping[str, str | int | None]

    def line(self) -> bytes:
        """Return it as HAProxy reads it."""
        record = base64.b64encode(json.dumps(self.record).encode()).decode()
        return f"{self.address or '-'} {self.status} {record}\n".encode()


@dataclass(frozen=True, slots=True)
class RouterFigures:
    """How many names are remembered, how many generations are answered, and why one is not ("": all are)."""

    names: int = 0
    answered: int = 0
    problem: str = ""


class NameRouter:
    """Answers the HAProxys of all generations, by the policy in force: the one that comes next asks by its own until it
    is. For one event loop.
    """

    def __init__(self, addresses: NameAddresses, reach: Reach) -> None:
        self._addresses = addresses
        self._reach = reach
        self._servers: dict[Path, asyncio.AbstractServer] = {}
        self._judges: dict[Path, Judge] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._problem = ""

    def figures(self) -> RouterFigures:
        """Return the figures. Called from any thread."""
        return RouterFigures(len(self._addresses), len(self._servers), self._problem)

    def open(self, path: Path, judge: Judge) -> None:
        """Answer the HAProxy that asks at a path from now on, by a policy until another one is in force."""
        self.close(path)
        self._judges[path] = judge
        task = asyncio.get_running_loop().create_task(self._open(path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def in_force(self, judge: Judge) -> None:
        """Judge by this from now on, for former HAProxys too: a client of HTTP/2 that stays with one goes on asking."""
        self._judges = dict.fromkeys(self._judges, judge)

    def close(self, path: Path) -> None:
        """Stop answering there."""
        self._judges.pop(path, None)
        if server := self._servers.pop(path, None):
            server.close()
        with contextlib.suppress(OSError):
            path.unlink()

    def failed(self, address: Address, port: int) -> None:
        """Take an address for bad: HAProxy did not reach it."""
        self._reach.failed(address, port)

    async def _open(self, path: Path) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write((await self._answered(reader, self._judges[path])).line())
                await writer.drain()
            except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                log.debug("haproxy asked and left: %s", error)
            except Exception:
                # The connection is refused, and others are served.
                log.exception("a question of haproxy was not answered")
            finally:
                writer.close()

        try:
            self._servers[path] = await asyncio.start_unix_server(
                serve, str(path), limit=LONGEST_QUESTION, backlog=4096
            )
            path.chmod(0o600)
        except OSError as error:
            self._problem = f"{path} cannot be listened on: {error.strerror}"
            log.error("%s", self._problem)

    async def _answered(self, reader: asyncio.StreamReader, judge: Judge) -> Answer:
        kind, client, port, *name = (await reader.readuntil(b"\n")).decode("ascii").split()
        asked = bytes.fromhex("".join(name))
        address = from_number(to_number(ipaddress.ip_address(client)))
        try:
            return await asyncio.wait_for(self.answer(kind, address, int(port), asked, judge), ANSWER_SECONDS)
        except TimeoutError:
            shown = printable(asked.decode("utf-8", "replace"), SHOWN)
            return Answer(None, 503, {"host": shown, "decision": "deny", "line": None, "reason": "no answer in time"})

    async def answer(self, kind: str, client: Address, port: int, asked: bytes, judge: Judge) -> Answer:
        """Return where a connection goes. ``asked``: the name as the client wrote it."""
        host = asked_name(asked, port, http=kind == "http")
        if isinstance(host, Invalid):
            shown = printable(asked.decode("utf-8", "replace"), SHOWN) or None
            return Answer(None, 400, {"host": shown, "decision": "invalid", "line": None, "reason": str(host)})
        if denied := judge.denied_by_name(client, host, port):
            return _denied(host, denied)
        looked = await self._addresses.look_up(host)
        verdicts = judge.judge(client, host, port, looked.addresses)
        if denied := denying(verdicts):
            return _denied(host, denied)
        if not looked.addresses:
            return Answer(None, 503, {**_record(host, verdicts[0]), "error": "dns", "detail": looked.problem})
        if any(map(judge.in_cluster, looked.addresses)):
            # A line opened it. Its connections are not to leave with EGRESS_SOURCE, as those that try would.
            return Answer(looked.addresses[0], INSIDE, _record(host, verdicts[0]))
        chosen = await self._reach.choose(looked.addresses, port)
        return Answer(chosen, 200, _record(host, verdicts[looked.addresses.index(chosen)]))


def asked_name(asked: bytes, port: int, *, http: bool) -> str | Invalid:
    """Return the name that a client asks for, in lower case and without a trailing dot. Of HTTP it is the Host, which
    may have a port: the one that the client is connected to.
    """
    if not asked:
        return Invalid("no Host" if http else "no name in the TLS ClientHello (SNI)")
    try:
        text = asked.decode("ascii").lower()
    except UnicodeDecodeError:
        return Invalid("not a host name: international names come in ASCII")
    if http and not text.startswith("["):
        text, colon, port_text = text.rpartition(":") if ":" in text else (text, "", "")
        if colon and port_text not in ("", str(port)):
            return Invalid(f"the Host names another port than {port}")
    bare = text.removesuffix(".")
    if literal_address(bare) is not None:
        return Invalid("an address, not a name")
    name = host_name(bare) if not bare.endswith(".") else Invalid("it has an empty part between dots")
    return Invalid(f"not a host name: {name}") if isinstance(name, Invalid) else name.text


def _record(host: str, verdict: Verdict) -> dict[str, str | int | None]:
    record: dict[str, str | int | None] = {"host": host, "decision": "allow" if verdict.allowed else "deny"}
    if verdict.line is None:
        return record | {"line": None, "reason": verdict.why}
    return record | {"line": verdict.line.number, "rule": verdict.line.text}


def _denied(host: str, verdict: Verdict) -> Answer:
    return Answer(None, 403, _record(host, verdict))
