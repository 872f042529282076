"""nftables: a table as values, as a script, and as it is in the kernel."""
