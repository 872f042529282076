"""The node agent for namespace egress IPs."""
