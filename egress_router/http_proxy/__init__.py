"""The HTTP proxy: EGRESS_HTTP_PROXY_DESTINATION becomes a policy that a real Squid enforces."""
