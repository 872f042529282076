"""All EGRESS_* variables there are: a misspelt one must not pass in silence."""

from __future__ import annotations

from egress_router.config.inputs import Inputs, Problems

ROUTER = (
    "EGRESS_SOURCE",
    "EGRESS_GATEWAY",
    "EGRESS_DESTINATION",
    "EGRESS_DESTINATION_FILE",
    "EGRESS_ROUTER_MODE",
    "EGRESS_ROUTER_DEBUG",
    "EGRESS_NAT_BACKEND",
    "EGRESS_INTERFACE",
    "EGRESS_PARENT_INTERFACE",
    "EGRESS_HOST_NETNS",
    "EGRESS_MACVLAN_MODE",
    "EGRESS_CLUSTER_CIDRS",
    "EGRESS_DAD",
    "EGRESS_LOG_FORMAT",
    "EGRESS_LOG_LEVEL",
    "EGRESS_SHUTDOWN_GRACE",
    "EGRESS_HEALTH_PORT",
    "EGRESS_CHECK",
    "EGRESS_ANNOUNCE_INTERVAL",
    "EGRESS_PROBE_INTERVAL",
    "EGRESS_NAME_HOLD",
    "EGRESS_RUN_DIR",
)
HTTP_PROXY = (
    "EGRESS_HTTP_PROXY_DESTINATION",
    "EGRESS_HTTP_PROXY_DESTINATION_FILE",
    "EGRESS_HTTP_PROXY_PORT",
    "EGRESS_HTTP_PROXY_CONNECT_PORTS",
    "EGRESS_HTTP_PROXY_MAX_CLIENTS",
    "EGRESS_HTTP_PROXY_WORKERS",
    "EGRESS_HTTP_PROXY_ACCESS_LOG",
    "EGRESS_HTTP_PROXY_MODE",
)
DNS_PROXY = (
    "EGRESS_DNS_PROXY_DESTINATION",
    "EGRESS_DNS_PROXY_DESTINATION_FILE",
    "EGRESS_DNS_PROXY_NAMESERVERS",
    "EGRESS_DNS_PROXY_IDLE_TIMEOUT",
    "EGRESS_DNS_PROXY_ACCESS_LOG",
    "EGRESS_DNS_PROXY_DEBUG",
    "EGRESS_DNS_PROXY_MODE",
)
NODE = (
    "EGRESS_NODE",
    "EGRESS_NODE_INTERFACE",
    "EGRESS_NODE_SOCKET",
    "EGRESS_STATE_DIR",
    "EGRESS_CLUSTER_NETWORKS",
    "EGRESS_CONTROLLER_WITNESSES",
    "EGRESS_HEALTH_ADDRESS",
)
KNOWN = frozenset(ROUTER + HTTP_PROXY + DNS_PROXY + NODE)


def warn_unknown(inputs: Inputs, problems: Problems) -> None:
    """Warn of every EGRESS_* variable that nothing reads, naming the one that was probably meant."""
    for name in sorted(inputs.env.keys() - KNOWN):
        # Imported only where there is something to compare: every pod would wait for it.
        from difflib import get_close_matches

        close = get_close_matches(name, KNOWN, n=1, cutoff=0.8)
        problems.warn(name, None, "", "is not a variable of ours", f"{close[0]}?" if close else "")
