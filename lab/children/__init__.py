"""Programs that the lab runs as child processes, by path and without the rest of the package."""
