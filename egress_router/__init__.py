"""Traffic of Kubernetes and OpenShift pods leaves the cluster with known source addresses."""

__version__ = "0.1.0"
