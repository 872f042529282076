"""The redirect router: EGRESS_DESTINATION lines become DNAT and SNAT rules of a pod."""
