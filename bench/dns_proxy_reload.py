"""20,000 new connections over 10 reloads of the DNS proxy router; how many fail, and whether open ones live.

``python -m bench.dns_proxy_reload [CONNECTIONS] [RELOADS]``, as root. Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from egress_router.lab import Lab
from tests.kernel import connections
from tests.kernel.dns_proxy_pod import DnsProxyPod, echoes


def main(count: int, reloads: int) -> None:
    with tempfile.TemporaryDirectory(prefix="egress-router-") as directory, Lab(nodes=1, shape="bridge") as lab:
        Path(directory).chmod(0o777)
        servers = ["203.0.113.25", "203.0.113.26"]
        for server in servers:
            lab.echo(server, tcp=[80])
        lab.dns.set("example.com", A=servers)
        pod = DnsProxyPod(lab, Path(directory), "80 example.com\n", families="4")
        with pod, contextlib.ExitStack() as held:
            open_connections = [held.enter_context(pod.hold(80)) for _ in range(20)]
            stop = Path(directory) / "stop"
            command = [sys.executable, connections.__file__, pod.address, "80", str(stop), "8", str(count)]
            load = pod.client.popen(command, stdout=subprocess.PIPE)
            done = 0
            while load.poll() is None:
                if done < reloads:
                    pod.signal(signal.SIGHUP)
                    done += 1
                    pod.until(lambda done=done: pod.messages().count("is in force") == done + 1, 30)
                time.sleep(0.3)
            assert load.stdout is not None
            result = json.loads(load.stdout.read())
            result["reloads while connecting"] = done
            result["open connections that live"] = sum(map(echoes, open_connections))
            result["rate"] = round(result["connections"] / result.pop("seconds"))
            result["log lines by state"] = Counter(entry["state"] for entry in pod.access_log())
            print(json.dumps(result, indent=2))


if __name__ == "__main__":
    GIVEN = [int(word) for word in sys.argv[1:]]
    main(*(GIVEN + [20_000, 10][len(GIVEN) :]))
