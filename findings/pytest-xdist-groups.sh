#!/bin/sh
# pytest 9.2.0 with pytest-xdist 3.8.0: `--dist loadgroup` does not keep the tests of an xdist_group on one worker.
#
# Documented (pytest-xdist, "Running tests across multiple CPUs"): all tests with @pytest.mark.xdist_group(name="x") run
# on the same worker under --dist loadgroup. A worker appends the group to the ID of the item by way of a private attribute
# (_nodeid), which pytest 9.2 neither has nor reads: the controller gets IDs without groups, and nothing is said.
# With pytest 9.0.2 and the same pytest-xdist the twelve tests run on one worker.
#
# Prints the workers that the tests of one group ran on, with both. Exits 1 when this is no longer so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
cat >"$work/test_group.py" <<'TEST'
import os
import time

import pytest

pytestmark = [pytest.mark.xdist_group("shared")]


@pytest.mark.parametrize("number", range(12))
def test_where(number):
    time.sleep(0.1)
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
TEST

workers() { # PYTEST_VERSION -> number of workers that the group ran on
    python3 -m venv "$work/$1" >&2
    "$work/$1/bin/python" -m pip install --quiet --disable-pip-version-check "pytest==$1" pytest-xdist==3.8.0 >&2
    (cd "$work" && SEEN="$work/seen-$1" "$work/$1/bin/python" -m pytest -q -p no:cacheprovider -n 3 --dist loadgroup test_group.py >&2)
    sort -u "$work/seen-$1" | wc -l
}

old=$(workers 9.0.2)
new=$(workers 9.2.0)
echo "workers of one group with pytest-xdist 3.8.0: pytest 9.0.2: $old, pytest 9.2.0: $new"
[ "$old" = 1 ] && [ "$new" -gt 1 ]
