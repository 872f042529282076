"""``scripts/demo --cluster``: the README's story in a real Kubernetes, each claim checked."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from lab import process
from lab.kubernetes.cache import Say
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.images import BUSYBOX
from lab.kubernetes.plan import Plan
from lab.stage import Stage

FAILED = 1
NAMESPACE = "egress-routers"
SOURCES = ("192.0.2.46", "192.0.2.47")
PROXY = "192.0.2.48"
SERVER, OTHER = "203.0.113.25", "203.0.113.26"
LIST = f"80 tcp {SERVER}\n8080 tcp {OTHER} 80\n"
LONGER = f"{LIST}8443 tcp {OTHER} 443\n"
ROUTERS = ["--platform=kubernetes", "--parent-interface=eth0", "--gateway=192.0.2.1"]
ASK = "echo hello | nc -w 5 {} {}"
CONNECTIONS = """
import socket, sys, time
address, port, stop, failed, number = sys.argv[1], int(sys.argv[2]), sys.argv[3], 0, 0
from pathlib import Path
while not Path(stop).exists():
    number += 1
    try:
        with socket.create_connection((address, port), timeout=10) as connection:
            connection.sendall(b"x\\n")
            failed += b"x\\n" not in connection.recv(4096)
    except OSError:
        failed += 1
    time.sleep(0.01)
print(number, failed)
"""


class ClusterDemo:
    """Plays the story on a cluster. ``stage`` remembers which claims held."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.stage = Stage("bridge", "auto")

    # What is shown

    def kubectl(self, words: str, *, text: str | None = None, check: bool = True, timeout: float = 120.0) -> str:
        """Show a command, run it, show and return what it printed."""
        click.echo(click.style("$ ", fg="cyan") + f"kubectl {words}")
        said = self.cluster.kubectl(*shlex.split(words), input=text, check=check, timeout=timeout)
        self.stage.output(said)
        return said

    def apply(self, product: str, name: str, sources: Sequence[str], destinations: str) -> None:
        """Write manifests by the command line and apply them, both shown."""
        words = [product, f"--name={name}", *(f"--source={source}" for source in sources), *ROUTERS]
        shown = " ".join(["egress-router manifests", *words, "--destinations=list.txt"])
        click.echo(click.style("$ ", fg="cyan") + "cat list.txt")
        self.stage.output(destinations)
        click.echo(click.style("$ ", fg="cyan") + f"{shown} | kubectl apply --validate=strict -f -")
        command = [sys.executable, "-m", "egress_router", "manifests", *words, "--destinations=-"]
        written = process.run(command, input=destinations, timeout=60).stdout
        self.stage.output(self.cluster.kubectl("apply", "--validate=strict", "-f", "-", input=written))

    def ask(self, address: str, port: int) -> list[str]:
        """Let the client pod say hello; return the words of the answer: peer, port, server, port."""
        command = ASK.format(address, port)
        click.echo(click.style("client# ", fg="cyan") + command)
        said = self.cluster.kubectl("exec", "client", "--", "sh", "-c", command, check=False)
        self.stage.output(said or "(no answer)")
        return said.split()

    # The story

    def play(self) -> None:
        """Tell it."""
        self.cluster.echo(SERVER, tcp=[80])
        self.cluster.echo(OTHER, tcp=[80, 443])
        self.prepare()
        with self.cluster.capture() as seen:
            self.routers()
            self.change()
            self.mistake()
            self.delete()
            self.proxy()
        self.stage.part("What a machine outside saw")
        sources = {str(packet.src) for packet in seen.received() if packet.proto == "tcp"}
        self.stage.output(
            "\n".join(f"{source:<14} {', '.join(sorted(seen.owners(source)))}" for source in sorted(sources))
        )
        self.stage.claim(f"everything came from {', '.join((*SOURCES, PROXY))}", sources == {*SOURCES, PROXY})
        nodes = {str(packet.src) for packet in seen.received() if packet.proto == "tcp"} & {
            f"192.0.2.{11 + number}" for number in range(self.cluster.shape.nodes)
        }
        self.stage.claim("nothing with the address of a node", not nodes)

    def prepare(self) -> None:
        """Show the cluster, and what it is like without a router."""
        self.stage.part("A cluster: kubelets, containerd and pods in namespaces of this machine")
        self.kubectl("get nodes -o wide")
        client = {"name": "client", "image": BUSYBOX, "imagePullPolicy": "Never"}
        self.cluster.apply(
            [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "client"},
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": [client]},
                }
            ]
        )
        self.cluster.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
        self.stage.part("Without a router, pods leave with the address of whatever node they run on")
        node = self.cluster.api.get("/api/v1/namespaces/default/pods/client")["status"]["hostIP"]
        answer = self.ask(SERVER, 80)
        self.stage.claim(f"the server saw the node's address, {node}", answer[:1] == [node])

    def routers(self) -> None:
        """Two routers behind one Service."""
        self.stage.part("Two routers behind one Service, from `egress-router manifests`")
        self.kubectl(f"create namespace {NAMESPACE}")
        self.kubectl(f"label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged")
        self.apply("redirect", "shop", SOURCES, LIST)
        for number in (1, 2):
            self.kubectl(f"-n {NAMESPACE} rollout status deploy/shop-{number} --timeout=120s")
        self.kubectl(f"-n {NAMESPACE} get pods -o wide")
        service = self.service("shop")
        self.stage.say(f"The Service shop has the address {service}; kube-proxy leads to one router or the other:")
        saw = [self.ask(service, port) for port in (80, 8080, 80, 8080)]
        self.stage.claim(
            f"the servers saw {' or '.join(SOURCES)}",
            all(answer[0] in SOURCES for answer in saw if answer) and all(saw),
        )
        self.stage.claim(
            "port 80 leads to one server, 8080 to port 80 of the other",
            [answer[2:4] for answer in saw[:2]] == [[SERVER, "80"], [OTHER, "80"]],
        )
        status = self.kubectl(f"-n {NAMESPACE} exec deploy/shop-1 -c router -- egress-router status")
        self.stage.claim("status: the kernel is as desired", "ok: leaving by macvlan0" in status)

    def change(self) -> None:
        """A line more, while clients connect."""
        self.stage.part("A new line in the list, while clients connect")
        pods = self.names()
        stop, program = self.connect(self.service("shop"), 80)
        self.apply("redirect", "shop", SOURCES, LONGER)
        self.kubectl(f"-n {NAMESPACE} annotate pods -l app.kubernetes.io/instance=shop egress-router/list=2")
        self.wait(
            lambda: self.said(f"-n {NAMESPACE} exec deploy/shop-1 -c router -- egress-router explain 8443/tcp", OTHER)
        )
        number, failed = self.connected(stop, program)
        self.kubectl(f"-n {NAMESPACE} logs deploy/shop-1 -c router --tail=1")
        self.wait(lambda: self.ask(self.service("shop"), 8443)[:1] != [])
        self.stage.claim("the new port is served by the same pods", self.names() == pods)
        self.stage.claim(f"of {number} connections meanwhile {failed} failed", failed == 0 and number > 20)

    def mistake(self) -> None:
        """A bad list."""
        self.stage.part("A mistake in the list")
        name = f"-n {NAMESPACE} patch configmap shop --type=merge -p "
        bad = '{"data": {"destinations": "80 tpc 203.0.113.25"}}'
        self.kubectl(name + shlex.quote(bad))
        self.kubectl(
            f"-n {NAMESPACE} annotate pods -l app.kubernetes.io/instance=shop egress-router/list=3 --overwrite"
        )
        logs = f"-n {NAMESPACE} logs deploy/shop-1 -c router --tail=3"
        self.wait(lambda: self.said(logs, "refused"))
        shown = self.kubectl(logs)
        self.stage.claim("it is refused, with the line and what would be right", "tpc" in shown and "line 1" in shown)
        status = self.kubectl(
            f"-n {NAMESPACE} exec deploy/shop-1 -c router -- sh -c 'egress-router status 2>&1'", check=False
        )
        self.stage.claim(
            "status shows both lists", "8443 tcp" in status and "tpc" in status and "ok: leaving" in status
        )
        self.stage.claim("the list before it stays in force", self.ask(self.service("shop"), 80)[:1] != [])

    def delete(self) -> None:
        """One router is deleted."""
        self.stage.part("A router's pod is deleted, while clients connect")
        stop, program = self.connect(self.service("shop"), 80)
        self.apply("redirect", "shop", SOURCES, LONGER)
        self.kubectl(f"-n {NAMESPACE} delete pod -l egress-router/router=shop-1")
        self.kubectl(f"-n {NAMESPACE} rollout status deploy/shop-1 --timeout=120s")
        number, failed = self.connected(stop, program)
        self.stage.claim(f"of {number} connections meanwhile {failed} failed", failed == 0 and number > 20)

    def proxy(self) -> None:
        """The HTTP proxy."""
        self.stage.part("An HTTP proxy with an allow-list")
        self.cluster.http_server("203.0.113.27")
        self.apply("http-proxy", "web", [PROXY], "203.0.113.27\n")
        self.kubectl(f"-n {NAMESPACE} rollout status deploy/web --timeout=120s")
        proxy = f"{self.service('web')} 8080"
        said = []
        for server in ("203.0.113.27", SERVER):
            # Squid takes a client that has ended its side for one that has gone.
            get = f"(printf 'GET http://{server}/ HTTP/1.0\\r\\n\\r\\n'; sleep 1) | nc -w 5 {proxy} | sed -n '1p;$p'"
            click.echo(click.style("client# ", fg="cyan") + get)
            said.append(self.cluster.kubectl("exec", "client", "--", "sh", "-c", get, check=False))
            self.stage.output(said[-1])
        self.stage.claim(f"what is allowed leaves with {PROXY}", f"\n{PROXY} " in said[0])
        self.stage.claim("what is not is refused", "403 Forbidden" in said[1])

    # Helpers

    def service(self, name: str) -> str:
        """Return the address of a Service."""
        return str(self.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/services/{name}")["spec"]["clusterIP"])

    def names(self) -> list[str]:
        """Return the routers' pods."""
        found = self.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        return sorted(pod["metadata"]["name"] for pod in found if pod["metadata"]["name"].startswith("shop-"))

    def said(self, words: str, text: str) -> bool:
        """Return whether a command prints a text."""
        return text in self.cluster.kubectl(*shlex.split(words), check=False)

    def wait(self, holds: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > deadline:
                self.stage.claim("it happens within a minute", held=False)
                return
            time.sleep(0.5)

    def connect(self, address: str, port: int) -> tuple[Path, subprocess.Popen[str]]:
        """Start to open connections from the client pod's network, one after the other."""
        stop = self.cluster.machines.files / f"stop-{time.monotonic_ns()}"
        command = [sys.executable, "-c", CONNECTIONS, address, str(port), str(stop)]
        return stop, self.cluster.pod("client").popen(command, stdout=subprocess.PIPE, text=True)

    def connected(self, stop: Path, program: subprocess.Popen[str]) -> tuple[int, int]:
        """Stop it; return how many connections there were, and how many failed."""
        stop.touch()
        number, failed = re.findall(r"\d+", program.communicate(timeout=30)[0])
        return int(number), int(failed)


def play(say: Say) -> int:
    """Play the story; return 0 when every claim held."""
    begun = time.monotonic()
    with Cluster(Plan(attachments=True), say) as cluster:
        cluster.load_products()
        demo = ClusterDemo(cluster)
        try:
            demo.play()
        except process.CommandFailed as error:
            demo.stage.claim(f"a command works: {error}", held=False)
    stage = demo.stage
    click.echo()
    if stage.failed:
        click.secho(
            f"NOT as claimed ({len(stage.failed)} of {len(stage.failed) + len(stage.held)}):", fg="red", bold=True
        )
        for what in stage.failed:
            click.echo(f"  {what}")
        return FAILED
    took = time.monotonic() - begun
    click.secho(f"Shown in a cluster. All {len(stage.held)} claims held ({took:.0f} s).", fg="green", bold=True)
    return 0
