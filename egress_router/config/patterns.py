"""Regular expressions that are compiled when they are first needed, a tenth of a millisecond or two each: every pod
waits for what `init` compiles.
"""

from __future__ import annotations

import re
from functools import cache


@cache
def pattern(text: str) -> re.Pattern[str]:
    """Return the compiled expression; its classes of characters are those of ASCII."""
    return re.compile(text, re.ASCII)
