"""A cluster made of network namespaces, for the demo, the tests and the benchmarks.

Nothing in the product imports it. Needs root, iproute2 and nftables; the DNS server needs dnspython.
"""

from lab.addressing import EXTERNAL, LAN, PODS
from lab.capture import Capture, CaptureIncomplete
from lab.client import NoReply
from lab.cluster import Lab
from lab.cni import SHAPES
from lab.host import Host
from lab.packet import Packet
from lab.process import CommandFailed

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
