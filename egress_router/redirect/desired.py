"""The desired state for the network that this process is in, or for a sample pod."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from egress_router.config.files import read_regular
from egress_router.config.values import Address, HostName
from egress_router.dns.resolv_conf import nameservers
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import Observed
from egress_router.redirect.egress_link import DEFAULT_NAME, EgressLink, choose_egress_link
from egress_router.redirect.plan import find_cluster_interface, plan_network, plan_translation
from egress_router.redirect.values import Desired, RouterConfig

Answers = Mapping[HostName, tuple[Address, ...]] | None
#: Nothing was looked up: what is sent to a name is dropped.
NONE_YET: Answers = MappingProxyType({})
RESOLV_CONF = "/etc/resolv.conf"
#: glibc reads no more of a line than 256 bytes, and three name servers.
MAX_RESOLV_CONF = 1 << 16


def desired_state(config: RouterConfig, observed: Observed, egress: str, answers: Answers = NONE_YET) -> Desired:
    """Plan for what was observed; the nameservers are those of /etc/resolv.conf, ``answers`` have the addresses of
    names (see Translation). Raises PlatformError.
    """
    try:
        text = read_regular(RESOLV_CONF, MAX_RESOLV_CONF).decode(errors="replace")
    except OSError:
        text = ""
    network = plan_network(config, observed, egress, nameservers(text))
    return Desired(network, plan_translation(config, network, answers))


def desired_here(config: RouterConfig, answers: Answers = NONE_YET) -> Desired:
    """Plan for the network namespace of this process, without changing it. Raises PlatformError."""
    with Rtnetlink() as kernel:
        observed = kernel.observe()
    return desired_state(config, observed, wanted_link(config, observed).name, answers)


def wanted_link(config: RouterConfig, observed: Observed) -> EgressLink:
    """Choose the egress interface for what was observed. Raises PlatformError.

    When nothing but EGRESS_INTERFACE has a default route, that interface is the cluster's, and the choice says so.
    """
    cluster = find_cluster_interface(observed, config.interface) or find_cluster_interface(observed, None)
    return choose_egress_link(config.interface, observed.links, cluster)


def desired_sample(config: RouterConfig) -> Desired:
    """Plan for SAMPLE_POD."""
    # Imported here: an init container, for which its pod waits, has a pod of its own.
    from egress_router.redirect.sample import SAMPLE_NAMESERVERS, SAMPLE_POD

    network = plan_network(config, SAMPLE_POD, config.interface or DEFAULT_NAME, SAMPLE_NAMESERVERS)
    return Desired(network, plan_translation(config, network, NONE_YET))
