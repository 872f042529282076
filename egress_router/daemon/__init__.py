"""One runtime for every process that stays."""
