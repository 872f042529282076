"""``python -m lab``: labs that stand outside of a test."""

from __future__ import annotations

import os

import click

from egress_router.redirect.values import Backend
from lab import Lab, cni, registry
from lab.addressing import MAX_NODES
from lab.host import Host

BACKENDS = [str(backend) for backend in Backend]
NO_PERMISSION = 77
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    r"""Make, list and remove clusters made of network namespaces. Needs root.

    \b
    Example:
      python -m lab up --nodes 3 --pods 2
      python -m lab list
      python -m lab down
      python -m lab demo
    """


@cli.command()
@click.option("--nodes", type=click.IntRange(1, MAX_NODES), default=1, show_default=True, help="Number of nodes.")
@click.option("--shape", type=click.Choice(cni.SHAPES), default=cni.BRIDGE, show_default=True, help="How pods connect.")
@click.option("--pods", type=click.IntRange(0, 20), default=1, show_default=True, help="Pods on each node.")
@click.option("--macvlan/--no-macvlan", default=False, help="Also add a pod `router` with a macvlan0 to node-1.")
def up(nodes: int, shape: str, pods: int, macvlan: bool) -> None:
    """Build a lab that stays until `down`, with echo servers behind its gateway; print how to enter it."""
    lab = Lab(nodes=nodes, shape=shape)
    lab.up()
    try:
        for node in range(nodes):
            for number in range(pods):
                lab.pod(f"pod-{node + 1}-{number + 1}", node=node)
        if macvlan:
            lab.macvlan(lab.pod("router"))
        for address in lab.service_addresses:
            lab.echo(address, tcp=[7, 80, 443], udp=[7, 53], stay=True)
    except BaseException:
        lab.down()
        raise
    lab.leave_standing()
    click.echo(f"{lab.name} stands ({shape}).\n")
    for host in lab.hosts:
        click.echo(f"  {entry(host)}")
    example = lab.pods[0] if lab.pods else lab.nodes[0]
    address = lab.service_addresses[0]
    click.echo(f"\nenter:   ip netns exec {example.netns} bash")
    click.echo(f"ask:     ip netns exec {example.netns} sh -c 'echo hello | socat - TCP:{address}:80'")
    click.echo(f"watch:   ip netns exec {lab.gateway.netns} tcpdump -eni eth0")
    click.echo(f"remove:  python -m lab down {lab.name}")


def entry(host: Host) -> str:
    """Return one line about a host."""
    return f"{host.netns:<24} {' '.join(str(address) for address in host.addresses.values())}".rstrip()


@cli.command(
    epilog="""
    \b
    Examples:
      python -m lab demo
      python -m lab demo redirect --shape point-to-point --backend iptables
    """
)
@click.argument("names", metavar="[SCENE]...", nargs=-1)
@click.option("--shape", type=click.Choice(cni.SHAPES), default=cni.BRIDGE, show_default=True, help="How pods connect.")
@click.option(
    "--backend", type=click.Choice(BACKENDS), default=BACKENDS[0], show_default=True, help="EGRESS_NAT_BACKEND."
)
@click.option("--list", "listed", is_flag=True, help="List the scenes and exit.")
@click.pass_context
def demo(ctx: click.Context, names: tuple[str, ...], shape: str, backend: str, listed: bool) -> None:
    """Play scenes (all, if none is named): each builds a lab, shows real commands and traffic, and checks itself.

    Exit code 0 when everything was as claimed, 1 when not.
    """
    from lab.demo import play
    from lab.scenes import scenes

    found = scenes()
    if listed:
        for name, scene in found.items():
            click.echo(f"{name:<12} {scene.TITLE}")
        return
    if unknown := [name for name in names if name not in found]:
        raise click.UsageError(f"no such scene: {', '.join(unknown)} (there are: {', '.join(found)})")
    if os.geteuid() != 0:
        click.echo("the demo makes network namespaces, which needs root", err=True)
        ctx.exit(NO_PERMISSION)
    try:
        status = play(found, names, shape, backend)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the lab is gone", err=True)
        status = INTERRUPTED
    ctx.exit(status)


@cli.command(name="list")
def list_() -> None:
    """List labs: name, who it ends with, namespaces."""
    for lab in registry.standing():
        owned = f"ends with process {lab.owner}" if lab.owner else "stands by itself"
        click.echo(f"{lab.name}  {owned}  {len(lab.namespaces)} namespaces")
        for netns in lab.namespaces:
            click.echo(f"  {netns}")


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Also labs whose process is still running.")
def down(names: tuple[str, ...], everything: bool) -> None:
    """Remove the named labs, or without NAMES all that no running process owns."""
    labs = registry.standing()
    if unknown := set(names) - {lab.name for lab in labs}:
        raise click.UsageError(f"no such lab: {', '.join(sorted(unknown))} (`list` shows them)")
    for lab in registry.to_remove(labs, names, everything):
        registry.remove(lab.name)
        click.echo(f"{lab.name} removed")


if __name__ == "__main__":
    cli(prog_name="python -m lab")
