"""What the long-lived router costs: memory, idle processor time, reloads of 10,000 destinations, time to repair.

python -m bench.longlived [nftables|iptables]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.load import HAPROXY
from lab import Lab
from tests.redirect.kernel.live import LiveRouter

IDLE_SECONDS = 20.0
PATIENCE = 60.0
RELOADS = 5


def rules(count: int, last: int) -> str:
    lines = [f"{port} tcp 203.0.113.{port % 200 + 10} 80" for port in range(10000, 10000 + count - 1)]
    return "\n".join([*lines, f"80 tcp 203.0.113.{last}"]) + "\n"


def status(pid: int, field: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(field))


def cpu(pid: int) -> float:
    """Seconds of processor time, with those of finished children."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def pid_of(router: LiveRouter) -> int:
    assert router.process is not None
    own = router.process.pid
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    return int(children[0]) if children and "python" not in Path(f"/proc/{own}/comm").read_text() else own


def idle(router: LiveRouter, what: str) -> None:
    pid = pid_of(router)
    # The look at everything that follows a change must be over.
    time.sleep(8)
    before, memory = cpu(pid), status(pid, "VmRSS")
    time.sleep(IDLE_SECONDS)
    share = (cpu(pid) - before) / IDLE_SECONDS
    print(f"{what}: {memory:.1f} MB resident (peak {status(pid, 'VmHWM'):.1f}), {share:.2%} of a core idle")


def reload_time(router: LiveRouter, text: str) -> tuple[float, float]:
    """Return seconds, and seconds of processor time: on a busy machine the second says more."""
    pid = pid_of(router)
    count = router.log().count("reload: ")
    before = cpu(pid)
    router.swap(text)
    started = time.monotonic()
    router.signal(signal.SIGHUP)
    while router.log().count("reload: ") == count:
        time.sleep(0.002)
    return time.monotonic() - started, cpu(pid) - before


def repair_time(router: LiveRouter, command: str) -> float:
    count = router.log().count("put back what")
    router.host.run(["sh", "-c", command])
    started = time.monotonic()
    while router.log().count("put back what") == count:
        assert time.monotonic() < started + PATIENCE, router.log()[-2000:]
        time.sleep(0.001)
    return time.monotonic() - started


def under_traffic(lab: Lab, router: LiveRouter, directory: Path) -> str:
    """Ten reloads while connections of a rule that stays come and go; return what wrk saw."""
    config = directory / "haproxy.cfg"
    config.write_text(HAPROXY)
    server = lab.services.popen(["haproxy", "-db", "-f", str(config)])
    time.sleep(1)
    url = f"http://{router.host.addresses[4]}:80/"
    wrk = router.client.popen(
        ["wrk", "-t1", "-c32", "-d20s", "-H", "Connection: close", url], stdout=subprocess.PIPE, text=True
    )
    for number in range(10):
        time.sleep(1)
        reload_time(
            router, f"80 tcp 203.0.113.25\n81 tcp 203.0.113.{26 + number % 2}\n{8000 + number} tcp 203.0.113.26\n"
        )
    output, _ = wrk.communicate(timeout=40)
    server.terminate()
    requests = output.split(" requests in")[0].split()[-1]
    errors = next((line.strip() for line in output.splitlines() if "rror" in line or "Non-2xx" in line), "no error")
    return f"{requests} connections over 10 reloads: {errors}"


def many_reloads(router: LiveRouter, count: int) -> str:
    def seen() -> str:
        pid = pid_of(router)
        return f"{status(pid, 'VmRSS'):.1f} MB, {len(list(Path(f'/proc/{pid}/fd').iterdir()))} descriptors"

    texts = [f"80 tcp 203.0.113.25\n{8000 + number} tcp 203.0.113.26\n" for number in range(2)]
    for number in range(20):
        reload_time(router, texts[number % 2])
    before, started = seen(), time.monotonic()
    for number in range(count):
        reload_time(router, texts[number % 2])
    each = (time.monotonic() - started) / count
    return f"{count} reloads, {each * 1000:.0f} ms each: {before} before, {seen()} after"


def main(backend: str) -> None:
    table = "nft delete table inet egress_router" if backend == "nftables" else "iptables-legacy -t nat -F"
    with Lab() as lab, tempfile.TemporaryDirectory() as directory:
        router = LiveRouter(lab, backend, Path(directory), "80 tcp 203.0.113.25\n")
        router.start()
        time.sleep(1)
        for name, command in {
            "route": "ip route del default table 14601 via 192.0.2.1",
            "address": "ip address del 192.0.2.46/32 dev macvlan0",
            "link": "ip link set macvlan0 down",
            "rule": "ip rule del priority 14602",
            "table": table,
        }.items():
            times = []
            for _ in range(5):
                times.append(repair_time(router, command))
                time.sleep(0.7)
            print(f"{backend}: deleted {name} back after {median(times) * 1000:.0f} ms (max {max(times) * 1000:.0f})")
        print(f"{backend}: {under_traffic(lab, router, Path(directory))}")
        print(f"{backend}: {many_reloads(router, 1000 if backend == 'nftables' else 100)}")
        idle(router, f"{backend}, 1 destination")
        pairs = []
        for number in range(RELOADS):
            pairs.append(reload_time(router, rules(10_000, number + 1)))
            time.sleep(3)
        print(f"{backend}: first reload to 10,000 destinations {pairs[0][0]:.2f} s (processor {pairs[0][1]:.2f} s)")
        seconds, processor = (median(values) for values in zip(*pairs[1:], strict=True))
        print(f"{backend}: 10,000 destinations, one changed: {seconds:.2f} s (processor {processor:.2f} s)")
        idle(router, f"{backend}, 10,000 destinations")
        print(f"{backend}: table of 10,000 back after {repair_time(router, table):.2f} s")
        idle(router, f"{backend}, 10,000 destinations, after a repair")


if __name__ == "__main__":
    for name in sys.argv[1:] or ("nftables", "iptables"):
        main(name)
