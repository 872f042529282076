"""What legacy iptables this machine has: light, for those who only have to choose."""

from __future__ import annotations

import os

from egress_router.config.values import Family
from egress_router.net.families import has_sockets

#: The library of iptables' extensions. Its soname has been the same from iptables 1.6 on.
LIBXTABLES = "libxtables.so.12"
#: Where the kernel lists the tables of legacy iptables, by family; without the file it offers none.
NAMES_FILES = {Family.IPV4: "/proc/net/ip_tables_names", Family.IPV6: "/proc/net/ip6_tables_names"}


def available_families() -> tuple[Family, ...]:
    """Return the families that the kernel offers legacy iptables for. A family without sockets (``ipv6.disable=1``) is
    none of them: nothing of it reaches this machine, and iptables could not be asked.
    """
    return tuple(family for family in Family if os.access(NAMES_FILES[family], os.F_OK) and has_sockets(family))
