"""The decision about namespace egress IPs: who may leave with which address through which node. Pure."""
