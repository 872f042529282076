"""Side-by-side measurements of what the project claims: ``scripts/bench``."""
