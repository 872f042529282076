"""Legacy iptables through python-iptables."""
