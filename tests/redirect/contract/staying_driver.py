"""A NAT backend of a process that stays, while shell commands tamper with what it has put in place.

Standard input: a pickled (backend, Translation, commands). Standard output: pickled, for each command (what a backend
without a memory says is different, what was mended, what is different then).
"""

from __future__ import annotations

import pickle
import subprocess
import sys

from egress_router.config.values import Family
from egress_router.redirect.iptables_cached import CachedIptables
from egress_router.redirect.nat import NatBackend, choose_backend
from egress_router.redirect.nft_forked import ForkedNftables
from egress_router.redirect.values import Backend

if __name__ == "__main__":
    name, translation, commands = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the test that started us
    staying: NatBackend = CachedIptables() if name == "iptables" else ForkedNftables()
    fresh = choose_backend(Backend(name), Family)
    staying.apply(translation)
    results = []
    for command in commands:
        subprocess.run(["sh", "-c", command], check=True)
        drift = fresh.drift(translation)
        results.append((drift, staying.repair(translation), fresh.drift(translation)))
    sys.stdout.buffer.write(pickle.dumps(results))
