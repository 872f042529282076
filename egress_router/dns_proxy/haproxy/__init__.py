"""HAProxy: its configuration, its processes, its servers."""
