"""results.json: machine, when, and every sample of every question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Samples

FORMAT = 1


@dataclass(slots=True)
class Measured:
    """One question's samples, when they were taken (UTC), how many seconds that took, and the load average before."""

    samples: Samples
    began: str = ""
    seconds: float = 0.0
    load: float = 0.0
    complete: bool = False


@dataclass(slots=True)
class Results:
    """What one run, or several, have measured."""

    quick: bool = False
    machine: Mapping[str, str | int | float] = field(default_factory=dict)
    questions: dict[str, Measured] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the content of results.json."""
        return {
            "format": FORMAT,
            "quick": self.quick,
            "machine": dict(self.machine),
            "questions": {
                name: {
                    "began": one.began,
                    "seconds": round(one.seconds, 1),
                    "load": round(one.load, 2),
                    "complete": one.complete,
                    "samples": one.samples.as_json(),
                }
                for name, one in self.questions.items()
            },
        }

    def write(self, path: Path) -> None:
        """Write the file; a reader sees the old one or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        # One row a line: readable in a diff, and small.
        rows = json.dumps(self.as_json(), indent=1, ensure_ascii=False)
        fresh.write_text(_joined(rows) + "\n")
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return what ``write`` wrote. Raises ValueError for another format."""
        found = json.loads(path.read_text())
        if found.get("format") != FORMAT:
            raise ValueError(f"{path}: format {found.get('format')}, this reads {FORMAT}")
        questions = {
            name: Measured(
                Samples.from_json(one["samples"]), one["began"], one["seconds"], one["load"], one["complete"]
            )
            for name, one in found["questions"].items()
        }
        return cls(found["quick"], found["machine"], questions)


def _joined(text: str) -> str:
    """Put lists of numbers, and the objects that hold them, on one line each."""
    lines: list[str] = []
    deep = False
    for line in text.splitlines():
        if deep:
            lines[-1] += " " + line.strip() if not line.strip().startswith(("]", "}")) else line.strip()
            deep = not (line.startswith("    }"))
        else:
            lines.append(line)
            deep = line == "    {"
    return "\n".join(lines)
