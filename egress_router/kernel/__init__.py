"""The only code that touches the kernel: netlink, iptables, nftables, neighbours, sysctl."""
