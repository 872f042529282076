"""Programs that run beside the lab; standard library only, started by path."""
