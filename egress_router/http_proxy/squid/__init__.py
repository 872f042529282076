"""Squid: its configuration, its processes, its log."""
