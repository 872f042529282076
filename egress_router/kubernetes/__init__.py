"""A client of the Kubernetes API on the standard library: configuration, requests, informers, a lease."""
