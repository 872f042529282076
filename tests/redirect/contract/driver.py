"""Runs methods of a NAT backend in the network namespace that it is started in.

Standard input: a pickled (backend, [(method, *arguments), …]). Standard output: the pickled results, or errors.
Each call has a backend of its own, as if it were another process's.
"""

from __future__ import annotations

import pickle
import sys

from egress_router.config.values import Family
from egress_router.errors import EgressRouterError
from egress_router.redirect.nat import choose_backend
from egress_router.redirect.values import Backend

if __name__ == "__main__":
    name, calls = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the test that started us
    results = []
    for method, *arguments in calls:
        try:
            results.append(getattr(choose_backend(Backend(name), Family), method)(*arguments))
        except EgressRouterError as error:
            results.append(error)
    sys.stdout.buffer.write(pickle.dumps(results))
