"""One node: what it shall hold, its kernel, its agent."""
