"""Why packets are dropped or refused: the counters of the table, the label of the metric, and their meaning."""

from __future__ import annotations

DROPS = {
    "no_way": "their namespace has no usable egress IP in that family",
    "no_connection": "a pod with egress IPs sent a packet of no connection, which nothing translates",
    "late_reply": "a reply to a pod with egress IPs whose connection is gone, or a datagram to it from outside",
    "unknown_pod": "no object tells of the pod, or of its namespace",
    "wrong_source": "a connection that began with another source than its egress IP",
    "tunnel_stranger": "tunnel packets, or what only standbys are told, from a machine that is no node",
    "tunnel_no_connection": "a packet of no connection came through the tunnel",
    "tunnel_inside": "what came through the tunnel was for the cluster or for this node",
    "tunnel_untranslated": "what came through the tunnel has no translation here",
    "forged_node": "from a pod of this node, to the tunnel of another node or the agent of any",
    "forged_source": "from a pod of another node by its address, but not through the tunnel; or with a source "
    "that is not behind the interface it came by",
    "multicast": "from a pod with egress IPs to a group, out of this node: it would leave with another source",
    "invalid": "from outside to an egress IP, but of no connection, or outside of its window",
    "refused": "new connections from outside to an egress IP",
}
