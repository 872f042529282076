"""A cluster made of network namespaces, for the demo, the tests and the benchmarks.

Nothing in the product imports it. Needs root, iproute2 and nftables; the DNS server needs dnspython.
"""

from egress_router.lab.addressing import EXTERNAL, LAN, PODS
from egress_router.lab.capture import Capture, CaptureIncomplete
from egress_router.lab.client import NoReply
from egress_router.lab.cluster import Lab
from egress_router.lab.cni import SHAPES
from egress_router.lab.host import Host
from egress_router.lab.packet import Packet
from egress_router.lab.process import CommandFailed

__all__ = [
    "EXTERNAL",
    "LAN",
    "PODS",
    "SHAPES",
    "Capture",
    "CaptureIncomplete",
    "CommandFailed",
    "Host",
    "Lab",
    "NoReply",
    "Packet",
]
