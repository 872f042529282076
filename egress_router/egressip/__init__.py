"""Namespace egress IPs: decided for the cluster, put in place by an agent on each node."""
