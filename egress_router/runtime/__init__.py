"""Wires the pure half to the effects."""
