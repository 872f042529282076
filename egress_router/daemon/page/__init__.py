"""Pages for people, beside those for machines: HTML that needs nothing from elsewhere."""
