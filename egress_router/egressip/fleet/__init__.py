"""The fleet at a glance: what leaves, who holds which address, what happened, as values and as a page."""
