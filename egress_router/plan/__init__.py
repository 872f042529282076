"""Typed values (and what was observed) become the desired state. Pure: no clock, file, socket or process."""
