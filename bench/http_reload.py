"""Reload the HTTP proxy while clients use it: new connections, open tunnels and running downloads.

python bench/http_reload.py [REQUESTS] [RELOADS] [RATE]      (root; from the repository's root)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from egress_router.lab import Lab
from tests.kernel.http_pod import PORT, Client, Proxy

LOAD = str(Path(__file__).with_name("http_load.py"))


def main(requests: int = 20_000, reloads: int = 10, rate: int = 600) -> None:
    with Lab(nodes=1, shape="bridge") as lab, Proxy(lab) as proxy:
        lab.http("203.0.113.25", port=80)
        lab.echo("203.0.113.26", tcp=[443])
        client = Client(lab, proxy)
        proxy.write_policy("203.0.113.0/24\n")
        proxy.start()
        tunnels = [client.tunnel("203.0.113.26:443") for _ in range(5)]
        seconds = requests / rate
        big = f"http://203.0.113.25/bytes/20000000?seconds={seconds:.0f}"
        curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"]
        curl += ["-x", f"http://{proxy.address}:{PORT}", big]
        downloads = [client.pod.popen(curl, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        command = [sys.executable, LOAD, proxy.address, str(PORT), "http://203.0.113.25/bytes/1000"]
        load = client.pod.popen(
            [*command, str(requests), "32", str(rate)], stdout=subprocess.PIPE, text=True, cwd=str(Path.cwd())
        )
        began = time.monotonic()
        for number in range(1, reloads + 1):
            while time.monotonic() < began + number * seconds / (reloads + 1):
                time.sleep(0.05)
            proxy.write_policy(f"203.0.113.0/24\nname-{number}.example\n")
            proxy.wait_for(f"generation {number + 1} is in force", 60)
        print("load:", load.communicate(timeout=seconds + 120)[0].strip())
        status = json.loads((proxy.run_directory / "status.json").read_text())
        print("status:", status)
        alive = 0
        for code, tunnel in tunnels:
            assert code == 200
            tunnel.sendall(b"still here\n")
            alive += b"still here" in tunnel.recv(4096)
        print(f"tunnels alive: {alive} of {len(tunnels)}")
        print("downloads:", [download.communicate(timeout=120)[0] for download in downloads])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
