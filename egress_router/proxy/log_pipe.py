"""HAProxy's access log on its way to our standard output.

HAProxy writes its own remarks ("Proxy port-80 stopped") to the same place as the access log, so it cannot have our
standard output directly: everything there is JSON, one object a line.
"""

from __future__ import annotations

from collections.abc import Callable

from egress_router.proxy.dns_tally import DnsTally
from egress_router.proxy.line_pipe import LinePipe
from egress_router.proxy.log_output import LogOutput


class LogPipe(LinePipe):
    """Lines of JSON are counted in ``tally`` and passed to ``output`` (None: to nobody), others to ``remark``."""

    def __init__(self, tally: DnsTally, output: LogOutput | None, remark: Callable[[str], None]) -> None:
        self._tally = tally
        self._output = output
        self._remark = remark
        super().__init__(self._sort)

    def _sort(self, lines: list[bytes]) -> None:
        entries = [line for line in lines if line.startswith(b"{")]
        if self._output:
            self._output.put(entries)
        self._tally.add(entries)
        for line in lines:
            if line.strip() and not line.startswith(b"{"):
                self._remark(line.decode("utf-8", "replace"))
