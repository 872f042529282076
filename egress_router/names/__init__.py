"""Host names of destinations: looked up, and kept looked up."""
