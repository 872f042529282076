"""The whole desired state of a pod."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.model.network import NetworkState
from egress_router.model.translation import Translation


@dataclass(frozen=True, slots=True)
class Desired:
    """Network and translation, which are planned together."""

    network: NetworkState
    translation: Translation
