"""Programs that run inside a namespace of the lab."""
