"""Manifests of other egress routers, read."""
