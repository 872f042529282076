"""A real Kubernetes in network namespaces: built from Go modules, started in seconds, gone without a trace.

No container engine, no virtual machine and no image registry. Each machine of a cluster (the nodes, the control plane,
the switch between them, the world outside) is a network, mount, UTS and PID namespace, held by one process. See
docs/cluster.md.
"""
