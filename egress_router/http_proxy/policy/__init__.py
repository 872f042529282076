"""The policy: parsed, compiled, evaluated, explained, attributed. Pure."""
