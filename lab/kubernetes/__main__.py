"""``scripts/cluster``: a real Kubernetes from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from lab import process
from lab.kubernetes import builder, machines, plan, product_images, versions
from lab.kubernetes.cluster import Cluster, Standing, wanted
from lab.kubernetes.errors import ClusterError, UsageError
from lab.kubernetes.plan import Plan

NO_PERMISSION, INTERRUPTED = 77, 130


def say(line: str) -> None:
    """Print progress, which is no output, to standard error."""
    click.echo(line, err=True)


def told(function: Callable[..., None]) -> Callable[..., None]:
    """Turn what goes wrong into one message and an exit code (docs/exit-codes.md)."""

    @wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> None:
        if os.geteuid() != 0:
            say("namespaces are made here, which needs root")
            sys.exit(NO_PERMISSION)
        try:
            function(*arguments, **named)
        except ClusterError as error:
            say(f"scripts/cluster: {error}")
            sys.exit(error.exit_code)
        except process.CommandFailed as error:
            say(f"scripts/cluster: {error}")
            sys.exit(1)
        except KeyboardInterrupt:
            say("interrupted")
            sys.exit(INTERRUPTED)

    return wrapper


def chosen(name: str | None) -> Path:
    """Return the folder of the named cluster; without a name there must be one only, but for API servers alone."""
    there = machines.standing()
    if name is not None:
        there = [folder for folder in there if folder.name == name]
    else:
        there = [folder for folder in there if (folder / "cluster.json").exists()]
    if not there:
        raise ClusterError("no cluster stands" if name is None else f"no cluster {name} stands (`list` shows them)")
    if len(there) > 1:
        raise ClusterError(f"several clusters stand, choose with -c: {', '.join(folder.name for folder in there)}")
    return there[0]


CHOICE = click.option(
    "-c", "--cluster", "name", metavar="NAME", envvar="EGRESS_LAB_CLUSTER", help="Which, where several stand."
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""
    \b
    Example:
      scripts/cluster up --nodes 3
      scripts/cluster kubectl get nodes -o wide
      scripts/cluster load localhost/egress-router-init:0.1.0
      scripts/cluster shell node-1
      scripts/cluster down
    """,
)
def cli() -> None:
    """Run a real Kubernetes in network namespaces: kubelets, containerd, pods, services. No container engine needed."""


def shape_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what a cluster is like."""
    for option in (
        click.option("--attachments", is_flag=True, help="Give pods the networks of NetworkAttachmentDefinitions."),
        click.option(
            "--proxy", type=click.Choice(plan.PROXIES), default="nftables", show_default=True, help="kube-proxy's mode."
        ),
        click.option(
            "--kube", metavar="VERSION", default=versions.KUBERNETES, show_default=True, help="Version of Kubernetes."
        ),
        click.option(
            "--cni", type=click.Choice(plan.CNIS), default="bridge", show_default=True, help="The pods' network."
        ),
        click.option(
            "--nodes", type=click.IntRange(1, plan.MAX_NODES), default=3, show_default=True, help="Number of nodes."
        ),
    ):
        function = option(function)
    return function


@cli.command()
@shape_options
@told
def build(**shape: Any) -> None:
    """Build what such a cluster needs and is not in the cache yet; `up` does it too."""
    for program, path in builder.ensure(wanted(Plan(**shape)), say).items():
        click.echo(f"{program:<24} {path}")


@cli.command()
@shape_options
@told
def up(**shape: Any) -> None:
    """Start a cluster that stays until `down`; print its name. With --cni none the nodes wait for yours."""
    with Cluster(Plan(**shape), say) as cluster:
        for gone in cluster.reaped:
            say(f"removed what was left of {gone}")
        cluster.leave_standing()
    say("enter:   scripts/cluster shell node-1        remove: scripts/cluster down " + cluster.name)
    click.echo(cluster.name)


@cli.command()
@told
def demo() -> None:
    """Play the README's story in a cluster of its own (`scripts/demo --cluster`); exit code 1 when a claim fails."""
    from lab.kubernetes.demo import play

    sys.exit(play(say))


#: After the first word of a foreign command all options are its own.
FOREIGN = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@cli.command(context_settings={**FOREIGN, "help_option_names": []})
@CHOICE
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@told
def kubectl(name: str | None, arguments: tuple[str, ...]) -> None:
    """Run kubectl, of the cluster's version, as administrator."""
    command = Standing(chosen(name)).kubectl_command(arguments)
    os.execvp(command[0], command)  # noqa: S606 - a list, never shell text


@cli.command()
@CHOICE
@click.argument("image", nargs=-1)
@click.option("--checkout", is_flag=True, help="The project's images, of this checkout and this machine's programs.")
@click.option("--tag", default=product_images.TAG, show_default=True, help="Their tag.")
@told
def load(name: str | None, image: tuple[str, ...], checkout: bool, tag: str) -> None:
    """Give images that buildah, podman or docker has here to every node (imagePullPolicy: Never or IfNotPresent)."""
    if not image and not checkout:
        raise UsageError("name an image, or --checkout")
    cluster = Standing(chosen(name))
    if checkout:
        cluster.load_products(tag)
        say(f"{', '.join(product_images.names(tag))} are on {', '.join(cluster.shape.node_names)}")
    for one in image:
        cluster.load(one)
        say(f"{one} is on {', '.join(cluster.shape.node_names)}")


@cli.command(context_settings=FOREIGN)
@CHOICE
@click.argument("machine")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@told
def shell(name: str | None, machine: str, command: tuple[str, ...]) -> None:
    """Enter a machine (node-1, ..., api, outside, switch): a shell, or COMMAND."""
    cluster = Standing(chosen(name))
    argv = cluster.machine(machine).command(command or ["bash", "-i"])
    os.environ["PATH"] = f"{cluster.programs['containerd'].parent}:{os.environ['PATH']}"
    os.execvp(argv[0], argv)  # noqa: S606 - a list, never shell text


@cli.command()
@CHOICE
@click.argument("machine")
@told
def cut(name: str | None, machine: str) -> None:
    """Unplug a machine's network cable; what runs on it goes on."""
    Standing(chosen(name)).set_cable(machine, plugged=False)


@cli.command()
@CHOICE
@click.argument("machine")
@told
def heal(name: str | None, machine: str) -> None:
    """Plug it in again."""
    Standing(chosen(name)).set_cable(machine, plugged=True)


@cli.command(name="list")
@told
def list_() -> None:
    """List clusters, with what they are like and what they end with."""
    for folder in machines.standing():
        if machines.keeper_pid(folder) is None:
            click.echo(f"{folder.name}  left behind: `down` removes it")
            continue
        owner = machines.owner(folder)
        ends = "" if owner is None else f"; ends with process {owner}"
        try:
            shape = Standing(folder).shape
        except ClusterError:
            click.echo(f"{folder.name}  being made, or an API server alone{ends}")
            continue
        kind = f"Kubernetes {shape.kube}, {shape.nodes} nodes, CNI {shape.cni}, kube-proxy {shape.proxy}"
        click.echo(f"{folder.name}  {kind}{ends}")


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Also those that a running process owns.")
@told
def down(names: tuple[str, ...], everything: bool) -> None:
    """Remove the named clusters, or without NAMES those that `up` made, and what dead ones left."""
    there = {folder.name: folder for folder in machines.standing()}
    if unknown := set(names) - set(there):
        raise ClusterError(f"no such cluster: {', '.join(sorted(unknown))} (`list` shows them)")
    for name, folder in there.items():
        if name in names or everything or (not names and machines.owner(folder) is None):
            machines.Machines(folder, None).remove()
            say(f"{name} removed")
    machines.reap()


if __name__ == "__main__":
    cli(prog_name="scripts/cluster")
