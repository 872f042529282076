"""Whether a cluster fits: what is looked at before anything is installed, and what follows from it."""
