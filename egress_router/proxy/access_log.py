"""The access log of a Squid: counted, and written as one JSON object a line with the policy line that decided.

A thread for each Squid reads its pipe until that Squid is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from egress_router.proxy.access_decision import Translator
from egress_router.proxy.access_line import RawLine, entry, parse
from egress_router.proxy.http_tally import HttpCounts, HttpTally, error_word
from egress_router.proxy.line_pipe import LinePipe
from egress_router.proxy.log_output import LogOutput

log = logging.getLogger(__name__)


class AccessLog(LinePipe):
    """The log of one Squid: counted in ``tally`` and written to ``output`` (None: to nobody). ``write_end`` becomes
    that Squid's standard output.
    """

    def __init__(self, translator: Translator, tally: HttpTally, output: LogOutput | None) -> None:
        self._translator = translator
        self._tally = tally
        self._output = output
        super().__init__(self._copy_lines)

    def _copy_lines(self, lines: list[bytes]) -> None:
        counts = HttpCounts()
        written = []
        for text in (line.decode("utf-8", "replace") for line in lines):
            raw = parse(text)
            decided = self._translator.decision(raw) if raw else None
            line = entry(raw, decided) if raw and decided and self._output else ""
            if raw is None or decided is None or line is None:
                log.warning("access log: a line that is not ours was dropped (%d characters)", len(text))
                continue
            written.append(line.encode())
            _count(raw, decided.members, counts)
        self._tally.add(counts)
        if self._output:
            self._output.put(written)


def _count(raw: RawLine, decision: Mapping[str, str | int | None], counts: HttpCounts) -> None:
    counts.decisions["invalid" if raw.rule == "-" else str(decision["decision"])] += 1
    counts.sent += int(raw.size)
    if "rule" in decision:
        counts.destinations[str(decision["rule"])] += 1
    if raw.error != "-" and decision["decision"] == "allow" and (error := error_word(raw.error, raw.server)):
        counts.errors[error] += 1
