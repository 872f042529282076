"""Which destinations are reached with an egress IP: the others' "only these" as our "all but these"."""

from __future__ import annotations

from collections.abc import Sequence

from egress_router.manifests.egress_ips.fields import MOST_NETWORKS, everything_but
from egress_router.manifests.egress_ips.values import Gathered
from egress_router.manifests.objects import ManifestObject

#: All addresses of an IP version.
EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}


def directly(
    item: ManifestObject,
    field: str,
    only: Sequence[str],
    excluded: Sequence[str],
    addresses: Sequence[str],
    into: Gathered,
) -> tuple[str, ...] | None:
    """Return the networks for ``spec.destinations.except``; None, and a note, where they cannot be written.

    ``only``: destinations that are reached with an egress IP, all where it is empty; ``excluded``: those of them that
    are not. An IP version without any address of these is left as it is: it has no egress IP.
    """
    families = {6 if ":" in address else 4 for address in addresses}
    wanted = [text for text in only if (6 if ":" in text else 4) in families]
    if only and not wanted:
        into.wrong(item.where, f"{field} has none of the IP version of its address; nothing is written for it")
        return None
    limited = {version for version in families if only and EVERYTHING[version] not in only}
    rest = everything_but(wanted, limited) if limited else ()
    found = tuple(dict.fromkeys([*rest, *(text for text in excluded if (6 if ":" in text else 4) in families)]))
    if len(found) > MOST_NETWORKS:
        into.lost(
            item.where,
            f"{field}: all but these destinations are more than {MOST_NETWORKS} networks, and so many can be named in"
            " spec.destinations.except; nothing is written for it",
        )
        return None
    if rest:
        into.changed(item.where, f"{field} is written as the networks around it, in spec.destinations.except")
    return found
