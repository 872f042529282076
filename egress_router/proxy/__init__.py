"""Squid and HAProxy as child processes: start, check, reload, drain."""
