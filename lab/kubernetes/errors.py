"""What can go wrong; exit codes as in docs/exit-codes.md."""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster is not as it should be, or did not become so in time."""

    exit_code = 1


class MissingError(ClusterError):
    """The machine lacks a program, a package or a kernel feature, or a build failed."""

    exit_code = 69


class UsageError(ClusterError):
    """What was asked for does not exist or makes no sense."""

    exit_code = 2
