"""The only code that touches the kernel: netlink, nftables, iptables, conntrack, neighbours, sysctl. No product's word
in it.
"""
