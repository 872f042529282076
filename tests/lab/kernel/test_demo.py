"""The demo plays every scene in both shapes, finds everything as it claims, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import registry
from lab.demo import play
from lab.scenes import scenes
from lab.stage import Stage

pytestmark = pytest.mark.root

CHECKOUT = Path(__file__).parents[3]
DEMO = [sys.executable, "-m", "lab", "demo"]


def labs_of(pid: int) -> list[str]:
    """Return the labs that a process owns."""
    return [lab.name for lab in registry.standing() if lab.owner == pid]


@pytest.mark.parametrize("scene", scenes())
def test_every_scene_is_as_claimed(scene: str, shape: str) -> None:
    done = subprocess.run([*DEMO, scene, "--shape", shape], cwd=CHECKOUT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith(f"Shown: {scene}. All ")
    assert "\x1b" not in done.stdout, "colours, though nobody looks at a terminal"
    assert "  NOT " not in done.stdout


def test_the_redirect_scene_on_the_other_backend() -> None:
    done = subprocess.run([*DEMO, "redirect", "--backend", "nftables"], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(nftables)" in done.stdout


def test_ctrl_c_takes_the_lab_down() -> None:
    process = subprocess.Popen(
        [*DEMO, "redirect"], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("router# egress-router init"):
                break
        assert labs_of(process.pid), "this test proves nothing: the demo owns no lab"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert labs_of(process.pid) == []


class Lying:
    """A scene whose claim does not hold."""

    TITLE = "lies"
    ORDER = 1

    def play(self, stage: Stage) -> None:
        with stage.lab() as lab:
            client = lab.pod("client")
            stage.claim("nobody listens there", stage.ask(client, client.addresses[4], 9, patience=1) is None)
            stage.claim("somebody listens there", stage.ask(client, client.addresses[4], 9, patience=1) is not None)


class Failing:
    """A scene whose command fails."""

    TITLE = "fails"
    ORDER = 2

    def play(self, stage: Stage) -> None:
        with stage.lab() as lab:
            stage.run(lab.gateway, ["ip", "link", "show", "absent"])


def test_what_is_not_as_claimed_makes_it_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert play({"lying": Lying(), "failing": Failing()}, [], "bridge", "auto") == 1
    printed = capsys.readouterr().out
    assert "NOT as claimed (2 of 3):" in printed
    assert "lying: somebody listens there" in printed
    assert "does not exist" in printed
