"""EGRESS_* text becomes typed values; every problem is reported with its variable and line."""
