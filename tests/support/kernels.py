"""The tests that scripts/test-kernels runs on the kernels of distributions; what needs one is left out elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Beside those marked ``distribution_kernel``: a cross-section, short enough for a machine in software. Beginnings of
#: test ids.
EVERY_KERNEL = (
    "tests/lab/kernel/test_lab.py::test_who_reaches_whom[bridge-4]",
    "tests/redirect/kernel/test_redirect.py::test_every_form_carries_traffic[bridge",
    "tests/redirect/kernel/test_redirect.py::test_counters_tell_which_line_was_used[point-to-point",
    "tests/redirect/kernel/test_redirect_interface.py::test_created_on_the_hosts_nic[bridge-private",
    "tests/redirect/kernel/test_redirect_neighbours.py::test_an_address_in_use_is_refused[bridge-nftables-4",
    "tests/redirect/kernel/test_redirect_neighbours.py::test_an_address_in_use_is_refused[bridge-nftables-6",
    "tests/redirect/kernel/test_status.py::test_every_kind_of_drift_is_found_and_mended[nftables-bridge",
    "tests/redirect/kernel/test_redirect_leaks.py::test_nothing_of_the_other_family_leaves[bridge-nftables-4",
    "tests/http_proxy/kernel/test_http_source.py::test_leaves_with_the_source[bridge",
    "tests/dns_proxy/kernel/test_dns_proxy_traffic.py::test_every_form_leaves_with_egress_source[bridge",
    "tests/egressip/kernel/test_egressip_drain_and_return.py::test_drain_loses_nothing[bridge",
    "tests/egressip/kernel/test_egressip_scene.py::test_power_cut[bridge",
)
LEFT_OUT = pytest.StashKey[int]()


def on_a_distribution_kernel() -> bool:
    """Return whether these tests run in the machine of scripts/test-kernels: what fails there is not left out."""
    return "TEST_KERNEL" in os.environ


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cross-section; deselect what this kernel cannot do."""
    for item in items:
        if item.nodeid.startswith(EVERY_KERNEL):
            item.add_marker("every_kernel")
        if "contract" in item.path.parent.parts:
            item.add_marker("contract")
    if on_a_distribution_kernel():
        if config.args_source == pytest.Config.ArgsSource.TESTPATHS:
            names = [item.nodeid for item in items]
            if gone := [start for start in EVERY_KERNEL if not any(name.startswith(start) for name in names)]:
                raise pytest.UsageError(f"tests/support/kernels.py names tests that do not exist: {', '.join(gone)}")
        return
    needy = [item for item in items if item.get_closest_marker("distribution_kernel")]
    if needy:
        config.stash[LEFT_OUT] = len(needy)
        config.hook.pytest_deselected(items=needy)
        items[:] = [item for item in items if item not in needy]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the ids of the chosen tests to the file that scripts/test-kernels names, a line each."""
    if name := os.environ.get("CHOSEN_TESTS"):
        Path(name).write_text("".join(f"{item.nodeid}\n" for item in session.items))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out."""
    if count := config.stash.get(LEFT_OUT, 0):
        what = "1 test that needs" if count == 1 else f"{count} tests that need"
        terminalreporter.write_line(f"{what} a distribution's kernel: scripts/test-kernels")
