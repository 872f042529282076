"""PairConfig → keepalived.conf(5), and the lines that keepalived writes about its role."""

from __future__ import annotations

import re
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.records import dataclass
from egress_router.redirect.pair.values import WITH_GATEWAY, PairConfig, Role

if TYPE_CHECKING:
    from jinja2 import Template

INSTANCE = "router"
#: keepalived(8), the notify FIFO: INSTANCE "router" MASTER 150
_TOLD = re.compile(rf'INSTANCE "{INSTANCE}" ([A-Z_]+) \d+')
_ROLES = {"MASTER": Role.ACTIVE, "BACKUP": Role.STANDBY, "FAULT": Role.FAULT, "STOP": Role.STANDBY}


@dataclass(frozen=True, slots=True)
class Place:
    """keepalived's files in a directory of their own."""

    directory: Path

    @property
    def configuration(self) -> Path:
        """keepalived.conf(5)."""
        return self.directory / "keepalived.conf"

    @property
    def fifo(self) -> Path:
        """Where it tells its role."""
        return self.directory / "roles"

    @property
    def gateways(self) -> Path:
        """1 while a gateway is missed, else 0."""
        return self.directory / "gateways"

    @property
    def blocked(self) -> Path:
        """1 while the address must not be taken, else 0."""
        return self.directory / "blocked"

    @property
    def pids(self) -> tuple[Path, Path]:
        """Where its two processes write their numbers."""
        return self.directory / "pid", self.directory / "vrrp.pid"

    @property
    def command(self) -> tuple[str, ...]:
        """Return the command that runs it in the foreground. Its two processes end together."""
        files = [f"--use-file={self.configuration}"]
        files += [f"--pid={self.pids[0]}", f"--vrrp_pid={self.pids[1]}"]
        return ("keepalived", "--dont-fork", "--dont-respawn", "--vrrp", "--log-console", "--no-syslog", *files)

    @property
    def check_command(self) -> tuple[str, ...]:
        """Return the command that looks for mistakes in the configuration."""
        return ("keepalived", "--config-test", f"--use-file={self.configuration}")


@cache
def _template() -> Template:
    # A router that is alone has no use for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("egress_router.redirect.pair", ""),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - no HTML
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("keepalived.conf.j2")


def keepalived_conf(
    pair: PairConfig,
    interface: str,
    source: IPv4Address,
    identity: IPv4Address,
    place: Place,
    tracked: str | None = None,
) -> str:
    """Return the configuration: adverts by ``interface`` from ``source``. One without ``tracked``, another interface,
    is none that may be active.
    """
    return _template().render(
        pair=pair,
        interface=interface,
        source=source,
        identity=identity,
        place=place,
        tracked=tracked,
        name=INSTANCE,
        with_gateway=WITH_GATEWAY,
    )


def told_role(line: str) -> Role | None:
    """Return the role that a line of the FIFO tells, None when it tells none."""
    match = _TOLD.fullmatch(line.strip())
    return _ROLES.get(match[1]) if match else None
