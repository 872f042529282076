"""What the system talks about: frozen values, standard library only."""
