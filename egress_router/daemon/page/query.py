"""What stands behind the question mark of a page's address."""

from __future__ import annotations

from urllib.parse import parse_qs

from egress_router.records import dataclass

#: More than these are somebody else's.
_FIELDS = 8


@dataclass(frozen=True, slots=True)
class Query:
    """``words`` filter rows (``q``). ``target`` and ``client`` are what is asked about. ``report``: the page as one
    file, without script and forms; ``redact``: without names and addresses.
    """

    words: str = ""
    target: str = ""
    client: str = ""
    report: bool = False
    redact: bool = False


def parse_query(text: str) -> Query:
    """Return what is asked for; fields that nobody knows are as if they were not there. Of what is no query, only that
    names and addresses shall be left out is heard.
    """
    try:
        fields = parse_qs(text, max_num_fields=_FIELDS)
    except ValueError:
        return Query(redact="redact" in text)

    def one(name: str) -> str:
        return fields.get(name, [""])[0].strip()

    return Query(one("q"), one("target"), one("client"), bool(one("report")), bool(one("redact")))
