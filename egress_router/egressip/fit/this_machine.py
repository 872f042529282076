"""What no object of the API tells: the kernel's options and the reverse path filters of this machine, which only reads.

Source of the options: the kernel's own list (proc(5), /proc/config.gz), the distribution's in /boot, else the names of
the modules that are there or built in (depmod(8): modules.dep, modules.builtin).
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from egress_router.config.files import read_regular
from egress_router.egressip.fit.values import Finding, Level
from egress_router.errors import few

#: Options that agents need, and the module of each that can be one.
NEEDED = {
    "VXLAN": "vxlan",
    "NF_TABLES": "nf_tables",
    "NF_TABLES_INET": "",
    "NFT_CT": "nft_ct",
    "NFT_NAT": "nft_nat",
    "NFT_FIB_INET": "nft_fib_inet",
    "NFT_REJECT": "nft_reject",
    "NF_CONNTRACK_MARK": "",
    "NF_CT_NETLINK": "nf_conntrack_netlink",
    "IP_MULTIPLE_TABLES": "",
    "IPV6_MULTIPLE_TABLES": "",
}
_MOST = 8 << 20
#: The kernel makes room for as much of a sysctl as is asked for, and refuses megabytes (ENOMEM).
_SYSCTL = 64
_STRICT = "1"


def findings(root: Path, release: str) -> list[Finding]:
    """Return what is found on the machine whose files are below ``root``, with a kernel of this ``release``."""
    return [_options(root, release), *_reverse_paths(root)]


def _options(root: Path, release: str) -> Finding:
    check = "kernel options"
    known = _config(root, release)
    if known is not None:
        lacking = [f"CONFIG_{name}" for name in NEEDED if known.get(name) not in ("y", "m")]
        where = f"Linux {release}"
    else:
        modules = _modules(root, release)
        if not modules:
            advice = "modprobe -na " + " ".join(module for module in NEEDED.values() if module)
            return Finding(Level.UNSEEN, check, f"Linux {release} has no list of them here", advice)
        lacking = [module for module in NEEDED.values() if module and module not in modules]
        where = f"Linux {release}, by the names of its modules"
    if lacking:
        return Finding(Level.REFUSED, check, f"{where}, lacks {', '.join(lacking)}", "a kernel with all of them")
    return Finding(Level.OK, check, f"{where}: all that agents need")


def _config(root: Path, release: str) -> dict[str, str] | None:
    """Return the options that are set, None where no list is there."""
    packed = _read(root / "proc/config.gz")
    data = None
    if packed is not None:
        try:
            data = gzip.decompress(packed)
        except (OSError, EOFError, zlib.error):
            data = None
    for path in (root / f"boot/config-{release}", root / f"lib/modules/{release}/config"):
        data = data or _read(path)
    if data is None:
        return None
    return dict(re.findall(r"^CONFIG_(\w+)=(\S+)$", data.decode("ascii", "replace"), re.MULTILINE))


def _modules(root: Path, release: str) -> set[str]:
    """Return the names of the modules that are there or built in."""
    found: set[str] = set()
    for name in ("modules.dep", "modules.builtin"):
        text = (_read(root / f"lib/modules/{release}/{name}") or b"").decode("ascii", "replace")
        found |= {module.replace("-", "_") for module in re.findall(r"^\S*?([\w-]+)\.ko", text, re.MULTILINE)}
    return found


def _read(path: Path, most: int = _MOST) -> bytes | None:
    try:
        return read_regular(str(path), most)
    except OSError:
        return None


def _reverse_paths(root: Path) -> list[Finding]:
    """Return what the reverse path filters are: the greater of ``all`` and an interface's own counts (ip-sysctl)."""
    check = "rp_filter"
    values = {}
    for path in sorted((root / "proc/sys/net/ipv4/conf").glob("*/rp_filter")):
        value = _read(path, _SYSCTL)
        if value is not None:
            values[path.parent.name] = value.decode("ascii", "replace").strip()
    if not values:
        return [Finding(Level.UNSEEN, check, "cannot be read here")]
    everywhere = values.pop("all", "0")
    template = values.pop("default", "0")
    strict = [name for name, value in values.items() if max(value, everywhere) == _STRICT]
    if not strict:
        return [Finding(Level.OK, check, f"strict nowhere (all {everywhere}, default {template})")]
    advice = "agents make overlays and second interfaces loose (2) that lead to other nodes' pods, and say so"
    return [Finding(Level.WARNING, check, f"strict on {few(strict)} (all {everywhere}, default {template})", advice)]
