"""The process that assigns egress IPs to nodes."""
