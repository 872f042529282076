"""``egress-router`` as a process: what it imports, and what its reader and its variables may do to it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
WRONG = {"EGRESS_SOURCE": "x", "EGRESS_ROUTER_MODE": "init"}


def process(*words: str, env: Mapping[str, str | bytes], code: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run ``egress-router WORDS`` with nothing but ``env``; ``code`` is Python that runs at its exit."""
    program = f"import atexit, os, sys\natexit.register(lambda: exec({code!r}))\n"
    # init leaves without what Python does at its end.
    program += (
        f"def leave(status, end=os._exit):\n exec({code!r})\n sys.stdout.flush()\n end(status)\nos._exit = leave\n"
    )
    program += "from egress_router.cli.main import main\nmain()"
    return subprocess.run([sys.executable, "-c", program, *words], env=env, cwd=CHECKOUT, capture_output=True)


LIST = "print('\\n'.join(sys.modules), file=sys.stdout)"


def test_init_does_not_import_what_it_does_not_need() -> None:
    """Every pod waits for it: click, all of pyroute2 and iptc cost some 0.1, 0.25 and 0.3 s."""
    done = process("init", env=WRONG, code=LIST)
    assert done.returncode == 78
    loaded = done.stdout.decode().split()
    assert "egress_router.redirect.init" in loaded
    unwanted = {"click", "yaml", "jinja2", "pyroute2", "iptc", "asyncio", "difflib", "egress_router.cli.group"}
    assert unwanted.isdisjoint(loaded)
    # Where nothing is wrong.
    modules = "egress_router.cli.main, egress_router.redirect.init, egress_router.redirect.nft_backend"
    # Without what site imports for the way in which this checkout is installed.
    code = f"import sys\nsys.path.append({sysconfig.get_path('purelib')!r})\nimport {modules}\n{LIST}"
    good = subprocess.run([sys.executable, "-S", "-c", code], cwd=CHECKOUT, capture_output=True)
    loaded = good.stdout.decode().split()
    assert "egress_router.net.nft.kernel" in loaded
    unwanted |= {"ctypes", "datetime", "subprocess", "multiprocessing", "platform", "pickle", "traceback"}
    unwanted |= {"pathlib", "urllib.parse"}
    assert unwanted.isdisjoint(loaded)


def test_pyroute2_works_after_its_messages_were_imported_alone() -> None:
    """What stood in for modules that it asks has gone, and its processes are true ones."""
    code = (
        "import egress_router.net.netlink, sys\n"
        "print(*sorted({'multiprocessing', 'platform', 'pyroute2'} & sys.modules.keys()))\n"
        "import pyroute2, platform, multiprocessing.queues\n"
        "from pyroute2 import IPRoute, config\n"
        "with IPRoute() as ip: names = [link.get_attr('IFLA_IFNAME') for link in ip.get_links()]\n"
        "print('lo' in names, config.machine == platform.machine(), config.uname[:5] == tuple(platform.uname())[:5])\n"
        "print(isinstance(config.MpQueue(), multiprocessing.queues.Queue), config.arch == platform.architecture()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\nTrue True True\nTrue True\n", "")


def test_other_verbs_do_import_click() -> None:
    """The control of the test above."""
    assert "click" in process("check", env=WRONG, code=LIST).stdout.decode().split()


@pytest.mark.parametrize("verb", ["init", "check"])
def test_variables_that_are_no_text(verb: str) -> None:
    done = process(verb, env={**WRONG, "EGRESS_DESTINATION": b"80 tcp \xff\x1b[2J", "EGRESS_LOG_FORMAT": b"\xfe"})
    assert done.returncode == 78
    assert b"Traceback" not in done.stderr
    assert b"EGRESS_DESTINATION line 1" in done.stderr


def test_output_for_a_terminal_that_knows_ascii() -> None:
    env = {**WRONG, "PYTHONIOENCODING": "ascii", "EGRESS_SOURCE": "ä"}
    for words in (["check"], ["check", "-o", "json"]):
        done = process(*words, env=env)
        assert done.returncode == 78
        assert b"Traceback" not in done.stderr


def test_the_reader_goes_away() -> None:
    """Exit code 1 would mean drift."""
    command = [sys.executable, "-m", "egress_router", "check", "--help"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(command, cwd=CHECKOUT, stdout=write_end, stderr=subprocess.PIPE, env={})
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_router_without_names_has_nothing_of_dns_in_memory() -> None:
    """dnspython is some 4 MB of 40."""
    code = "import sys, egress_router.redirect.run\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "egress_router.redirect.names" in loaded
    assert {"dns", "egress_router.dns.resolver", "idna"}.isdisjoint(loaded)


@pytest.mark.parametrize("words", [["check"], ["check", "-o", "json"], ["plan"], ["--help"], ["explain", "80/tcp"]])
def test_a_full_disk_is_no_bug(words: list[str]) -> None:
    env = {"EGRESS_SOURCE": "192.0.2.46", "EGRESS_GATEWAY": "192.0.2.1", "EGRESS_ROUTER_MODE": "init"}
    env["EGRESS_DESTINATION"] = "203.0.113.27"
    command = [sys.executable, "-m", "egress_router", *words]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, cwd=CHECKOUT, stdout=full, stderr=subprocess.PIPE, env=env, text=True)
    text = "egress-router: what should be printed could not be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (69, text)


@pytest.mark.parametrize("verb", ["init", "run", "check"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_change_no_exit_code(verb: str, closed: str) -> None:
    command = f"exec {sys.executable} -m egress_router {verb} {closed}"
    env = {**WRONG, "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", command], cwd=CHECKOUT, env=env, capture_output=True)
    assert done.returncode == 78


def test_a_parent_that_ignores_its_children_hands_that_on_in_vain() -> None:
    """nft's exit status could not be asked for (waitpid(2), ECHILD)."""
    code = (
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from egress_router.cli import main\nfrom egress_router.net.process import run_tool\n"
        "main.run = lambda _: len(run_tool(['echo', 'done']))\nmain.main(['status'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (len("done\n"), "")
