"""The DNS proxy: EGRESS_DNS_PROXY_DESTINATION becomes the listeners of a real HAProxy."""
