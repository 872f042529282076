"""Several routers with one EGRESS_SOURCE, of which one has it: election by keepalived, the address held by a lease in
the kernel. docs/design/pair.md says why it is so.
"""
