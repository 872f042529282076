"""Where the cluster's objects come from."""
