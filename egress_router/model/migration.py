"""What is found in manifests that were written for other egress routers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from egress_router.model.manifests import ManifestRequest


class NoteKind(StrEnum):
    """Whether the old manifest was mistaken, or ours does it another way."""

    WRONG = "was wrong"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that the person who migrates should know; ``where`` is the object of the old manifest."""

    kind: NoteKind
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


@dataclass(frozen=True, slots=True)
class OldRouter:
    """One router of the old manifest. ``request`` lacks what the three texts and ``http_port`` say."""

    where: str
    request: ManifestRequest
    source: str
    gateway: str
    destinations: str
    destinations_name: str
    http_port: str | None = None
