"""Who has the address, by what is answered in the egress network."""

from __future__ import annotations

#: Questions in a row without an answer: then nobody has it.
UNANSWERED = 3


class Holder:
    """Remembers what came of the questions who has the address, the versions of IP apart. ``mac`` is that of the one
    that said so last, empty as long as nobody did.
    """

    def __init__(self) -> None:
        self.mac = ""
        #: By the version of IP: questions without an answer, and whether one is open.
        self._unanswered: dict[int, int] = {}
        self._asked: set[int] = set()
        #: Versions by which anybody has ever answered.
        self._answered: set[int] = set()

    @property
    def free(self) -> bool:
        """Whether nobody answers for the address. False as long as that is not known.

        A router that lives answers for the addresses of all versions. The kernel of one that was killed does so for
        IPv6 up to a second longer than for IPv4, but no longer sends with either. So IPv4 decides, if anybody has ever
        answered by it: switches that inspect neighbour discovery let no IPv6 probe pass.
        """
        heard = self._answered or self._unanswered.keys()
        return bool(heard) and self._unanswered.get(min(heard), 0) >= UNANSWERED

    @property
    def answers(self) -> bool:
        """Whether somebody is known to have it."""
        return bool(self.mac) and not self.free

    def asked(self, version: int) -> None:
        """Note that a question goes out: the one before it has its answer by now, or has none."""
        self._unanswered[version] = self._unanswered.get(version, 0) + (version in self._asked)
        self._asked.add(version)

    def claimed(self, mac: str, version: int) -> None:
        """Note that a machine says that it has the address."""
        self.mac = mac
        self._answered.add(version)
        self._unanswered[version] = 0
        self._asked.discard(version)

    def left(self, mac: str) -> None:
        """Note that a machine has said otherwise that it gives it up."""
        if mac == self.mac:
            self._unanswered = dict.fromkeys(self._unanswered, UNANSWERED)

    def forget(self) -> None:
        """Know nothing: there may be others behind the link now."""
        self.mac = ""
        self._unanswered.clear()
        self._asked.clear()
        self._answered.clear()
