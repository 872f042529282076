"""What a scene of the demo speaks with: headings, sentences, commands with their real output, and claims."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import click

from lab.addressing import Address, parse
from lab.cluster import Lab
from lab.host import Host

#: Seconds that a client waits for an answer; none comes later on one machine.
PATIENCE = 2


class Stage:
    """Prints a scene as it is played and remembers which claims held.

    ``shape`` is one of cni.SHAPES, ``backend`` a value of EGRESS_NAT_BACKEND. Colours are left out where standard
    output is no terminal.
    """

    def __init__(self, shape: str, backend: str) -> None:
        self.shape = shape
        self.backend = backend
        self.held: list[str] = []
        self.failed: list[str] = []

    def lab(self, nodes: int = 1) -> Lab:
        """Return a lab of the wanted shape; use it in a ``with``."""
        return Lab(nodes=nodes, shape=self.shape)

    def part(self, title: str) -> None:
        """Start a part of the story."""
        click.secho(f"\n== {title}", bold=True)

    def say(self, text: str) -> None:
        """Print a sentence."""
        click.echo(text)

    def prompt(self, host: Host, command: str) -> None:
        """Show a command as if it was typed in ``host``; further lines are indented like the first."""
        first, *rest = command.splitlines()
        click.echo(click.style(f"{host.name}# ", fg="cyan") + first)
        for line in rest:
            click.echo(" " * (len(host.name) + 2) + line)

    def output(self, text: str) -> None:
        """Show what a command printed."""
        for line in text.rstrip().splitlines():
            click.echo(f"    {line}")

    def run(
        self,
        host: Host,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        shown: str | None = None,
        check: bool = True,
    ) -> CompletedProcess[str]:
        """Run a command in ``host``, show it (or ``shown``) and what it printed. Raises CommandFailed."""
        self.prompt(host, shown or shlex.join(argv))
        done = host.run(argv, env=env, check=check, timeout=60)
        self.output(done.stdout + done.stderr)
        return done

    def egress_router(
        self, host: Host, *words: str, env: Mapping[str, str], check: bool = True
    ) -> CompletedProcess[str]:
        """Run ``egress-router WORDS`` in ``host`` with the variables ``env`` (see ``variables``)."""
        argv = [sys.executable, "-m", "egress_router", *words]
        return self.run(host, argv, env=env, shown=shlex.join(["egress-router", *words]), check=check)

    def start(self, host: Host, *words: str, env: Mapping[str, str], until: str, log: Path) -> None:
        """Start ``egress-router WORDS`` in ``host``, both outputs into the file ``log``, and wait for ``until`` there.

        It ends with the lab. Raises RuntimeError with the log when it ends before, or after 30 s.
        """
        self.prompt(host, shlex.join(["egress-router", *words]) + " &")
        argv = [sys.executable, "-m", "egress_router", *words]
        with log.open("w") as output:
            process = host.popen(argv, env=env, stdout=output, stderr=output)
        deadline = time.monotonic() + 30
        while until not in (text := log.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"egress-router {words[0]} does not say {until!r}:\n{text}")
            time.sleep(0.02)
        self.output(text)

    def init(self, router: Host, source: str, mode: str) -> None:
        """Run the init container of a proxy's pod: the network half, leaving with ``source``."""
        env = {
            "EGRESS_SOURCE": source,
            "EGRESS_GATEWAY": "192.0.2.1",
            "EGRESS_ROUTER_MODE": mode,
            "EGRESS_NAT_BACKEND": self.backend,
            "EGRESS_LOG_FORMAT": "text",
        }
        self.variables(router, env)
        self.egress_router(router, "init", env=env)

    def variables(self, host: Host, env: Mapping[str, str]) -> None:
        """Show the variables that a container of ``host`` is started with."""
        for name, value in env.items():
            self.prompt(host, f"export {name}={shlex.quote(value)}")

    def ask(
        self, host: Host, address: Address | str, port: int, protocol: str = "tcp", patience: int = PATIENCE
    ) -> str | None:
        """Let ``host`` say hello to an echo server of the lab; return ``PEER_IP PEER_PORT LOCAL_IP LOCAL_PORT hello``,
        None when no answer came within ``patience`` seconds.
        """
        command = f"exec 3<>/dev/{protocol}/{parse(address)}/{port} && echo hello >&3 && head -n 1 <&3"
        self.prompt(host, command)
        done = host.run(["timeout", str(patience), "bash", "-c", command], check=False, timeout=patience + 10)
        answer = done.stdout.strip()
        if answer:
            peer, peer_port, server, server_port, *_ = answer.split()
            self.output(f"{answer}\n(server {server} port {server_port} was asked by {peer} port {peer_port})")
            return answer
        self.output(done.stderr or f"(no answer within {patience} s)")
        return None

    def claim(self, what: str, held: bool) -> bool:
        """Say that something is so, and remember whether it is."""
        (self.held if held else self.failed).append(what)
        mark, colour = ("ok ", "green") if held else ("NOT", "red")
        click.echo(click.style(f"  {mark} ", fg=colour, bold=not held) + what)
        return held
