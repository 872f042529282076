"""What a page is, our style and our script, and what a browser may do with them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

#: Status, content type and body of a page.
Answer = tuple[int, str, bytes]
HTML = "text/html; charset=utf-8"


@cache
def asset(name: str) -> str:
    """Return a file of this folder."""
    return Path(__file__).with_name(name).read_text()


@cache
def html_headers() -> dict[str, str]:
    """Return the headers that go with HTML: nothing but our own style and script, by their hashes (CSP level 3)."""
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{_hash('page.css')}'; script-src 'sha256-{_hash('page.js')}'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def _hash(name: str) -> str:
    # Only then: OpenSSL costs a megabyte.
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha256(asset(name).encode()).digest()).decode()
