"""The scenes of the demo, one short file each; ``python -m lab demo`` plays them.

To add a scene, add a file to this folder; nothing else needs to know of it. Its name is the scene's, with ``-`` for
``_`` (``http_proxy.py`` is ``demo http-proxy``). It has

- ``TITLE``: what it shows, in a line, for ``demo --list``;
- ``ORDER``: a number; scenes are played from the lowest to the highest;
- ``play(stage)``: builds what it needs with ``stage.lab()`` and tells the story with the verbs of stage.Stage:
  ``part`` a heading, ``say`` a sentence, ``run`` a command in a host with its real output, ``egress_router`` the same
  for our own commands, ``ask`` a client's connection, ``claim`` something that must be true.

A scene checks itself: whatever it tells the reader is a ``claim`` about what was really seen, and one that does not
hold makes the demo fail. Claim that a thing works before claiming that another is impossible. Output of a command is
printed as it came; addresses are the lab's (documentation ranges). Keep a scene to some ten seconds, and end what it
started with the lab. tests/lab/kernel/test_demo.py plays every scene in this folder in both shapes.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, cast

from lab.stage import Stage


class Scene(Protocol):
    """What the module of a scene has."""

    TITLE: str
    ORDER: int

    def play(self, stage: Stage) -> None:
        """Tell the story."""
        ...


def scenes() -> dict[str, Scene]:
    """Return all scenes by name, in the order in which they are played."""
    found = {
        item.name.replace("_", "-"): cast("Scene", import_module(f"{__name__}.{item.name}"))
        for item in iter_modules(__path__)
    }
    return dict(sorted(found.items(), key=lambda pair: (pair[1].ORDER, pair[0])))
