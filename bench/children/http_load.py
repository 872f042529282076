"""A bounded load of HTTP requests through a proxy, each on a new connection; prints one JSON object.

    http_load.py PROXY_IP PORT URL COUNT CONCURRENCY RATE

RATE: requests a second in total, 0 for as fast as it goes. A request is good when it is answered 200 in full.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter


class Load:
    """Counts what comes back."""

    def __init__(self, proxy: str, port: int, url: str, count: int, rate: float) -> None:
        self.proxy = proxy
        self.port = port
        host = url.split("/")[2]
        self.request = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        self.left = count
        self.rate = rate
        self.good = 0
        self.failures: Counter[str] = Counter()
        self.slowest = 0.0
        self.began = time.monotonic()
        self.sent = 0

    async def worker(self) -> None:
        """Send requests until none is left."""
        while self.left > 0:
            self.left -= 1
            self.sent += 1
            if self.rate:
                await asyncio.sleep(max(0.0, self.began + self.sent / self.rate - time.monotonic()))
            began = time.monotonic()
            try:
                why = await asyncio.wait_for(self.one(), 20)
            except TimeoutError:
                why = "timeout"
            except OSError as error:
                why = f"{type(error).__name__} {error.errno}"
            except asyncio.IncompleteReadError as error:
                why = f"cut after {len(error.partial)} bytes"
            self.slowest = max(self.slowest, time.monotonic() - began)
            if why:
                self.failures[why] += 1
            else:
                self.good += 1

    async def one(self) -> str:
        """Send one request; return what was wrong with the answer."""
        reader, writer = await asyncio.open_connection(self.proxy, self.port)
        try:
            writer.write(self.request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split()[1].decode()
            if status != "200":
                return f"status {status}"
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
            if length is None:
                await reader.read()
            else:
                await reader.readexactly(int(length.split(b":")[1]))
            return ""
        finally:
            writer.close()


async def main(proxy: str, port: str, url: str, count: str, concurrency: str, rate: str) -> None:
    load = Load(proxy, int(port), url, int(count), float(rate))
    await asyncio.gather(*(load.worker() for _ in range(int(concurrency))))
    seconds = time.monotonic() - load.began
    result = {
        "good": load.good,
        "failures": dict(load.failures),
        "seconds": round(seconds, 2),
        "per_second": round(load.good / seconds, 1),
        "slowest": round(load.slowest, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
