"""What the project is compared with: the plain ways to do the same, written for this."""
