"""TLS and HTTP by the name that clients ask for: EGRESS_TLS_PROXY_DESTINATION judges, HAProxy carries the bytes."""
