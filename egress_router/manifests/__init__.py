"""Kubernetes objects for routers, written from options or from the manifests of other egress routers."""
