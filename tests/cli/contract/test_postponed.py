"""What stands for a module that is hardly ever asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]


def said_by(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def test_a_traceback_is_logged_as_ever() -> None:
    code = (
        "import sys\n"
        "from egress_router.daemon import log\n"
        "import egress_router.net.netlink\n"
        "print('traceback' in sys.modules)\n"
        "import logging\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.exception('it broke')\n"
        "import traceback\n"
        "print(traceback.__spec__.name, logging.traceback.format_exc is traceback.format_exc)\n"
    )
    said = said_by(code)
    assert said[0] == "False"
    assert said[1:3] == ["ERROR:root:it broke", "Traceback (most recent call last):"]
    assert said[-3:] == ["ZeroDivisionError: division by zero", "traceback True", ""]


def test_who_asks_while_it_is_imported_gets_the_true_one() -> None:
    code = (
        "import sys\n"
        "from egress_router.postponed import postponed\n"
        "with postponed('colorsys'):\n"
        "    from colorsys import rgb_to_hsv\n"
        "import colorsys\n"
        "print(rgb_to_hsv is colorsys.rgb_to_hsv, colorsys.__spec__ is not None)\n"
        "before = colorsys\n"
        "with postponed('colorsys'):\n"
        "    import colorsys\n"
        "print(colorsys is before, sys.modules['colorsys'] is before)\n"
    )
    assert said_by(code)[:2] == ["True True", "True True"]


@pytest.mark.parametrize("module", ["redirect.run", "egressip.node.process", "egressip.controller.process"])
def test_what_stays_logs_a_traceback_when_no_file_can_be_opened(module: str) -> None:
    code = (
        "import os, resource, sys\n"
        f"import egress_router.{module}\n"
        "import logging\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "try:\n"
        "    while True: os.dup(0)\n"
        "except OSError: pass\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.exception('it broke')\n"
    )
    said = said_by(code)
    assert said[:2] == ["ERROR:root:it broke", "Traceback (most recent call last):"]
    assert said[-2:] == ["ZeroDivisionError: division by zero", ""]
