"""A bounded load of HTTP requests through a proxy on connections that are kept; prints one JSON object.

    http_keepalive.py PROXY_IP PORT URL COUNT CONNECTIONS PAUSE

PAUSE: seconds between two requests of a connection, on average. A connection is opened anew when the proxy has said
``Connection: close`` or has closed it before the next request was sent; one that was sent and not answered in full
is broken.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter


class Load:
    """Counts what comes back."""

    def __init__(self, proxy: str, port: int, url: str, count: int, pause: float) -> None:
        self.proxy, self.port, self.left, self.pause = proxy, port, count, pause
        self.request = f"GET {url} HTTP/1.1\r\nHost: {url.split('/')[2]}\r\n\r\n".encode()
        self.seen: Counter[str] = Counter()

    async def worker(self) -> None:
        """Use one connection after the other until no request is left."""
        while self.left > 0:
            self.seen["connections"] += 1
            try:
                reader, writer = await asyncio.open_connection(self.proxy, self.port)
            except OSError as error:
                self.left -= 1
                self.seen[f"broken: {type(error).__name__}"] += 1
                continue
            try:
                while self.left > 0 and not reader.at_eof():
                    self.left -= 1
                    if await self.one(reader, writer):
                        break
                    await asyncio.sleep(random.uniform(0, 2 * self.pause))
            finally:
                writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send a request and read the answer; return whether the connection ends with it."""
        try:
            writer.write(self.request)
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).lower()
            length = head.split(b"content-length:")[1].split(b"\r\n")[0]
            await asyncio.wait_for(reader.readexactly(int(length)), 20)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.seen[f"broken: {type(error).__name__}"] += 1
            return True
        self.seen["status " + head.split()[1].decode()] += 1
        return b"connection: close" in head


async def main(proxy: str, port: str, url: str, count: str, connections: str, pause: str) -> None:
    load = Load(proxy, int(port), url, int(count), float(pause))
    await asyncio.gather(*(load.worker() for _ in range(int(connections))))
    print(json.dumps(load.seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
