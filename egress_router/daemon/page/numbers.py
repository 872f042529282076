"""Names and addresses as numbers, for pages that strangers may read."""

from __future__ import annotations


class Numbers:
    """Gives each text of a kind a number, the same one each time: "node-1", "node-2"."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def of(self, kind: str, text: str) -> str:
        """Return what stands for ``text``."""
        known = self._known.setdefault(kind, {})
        return known.setdefault(text, f"{kind}-{len(known) + 1}")
