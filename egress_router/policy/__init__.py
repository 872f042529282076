"""Lists of destinations, the first that matches decides: parsed, compiled, evaluated, attributed. Pure."""
