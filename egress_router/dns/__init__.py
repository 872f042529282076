"""Names: asked for, remembered, kept looked up."""
