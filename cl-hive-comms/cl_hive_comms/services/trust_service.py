"""The trust of a command's agent: pinned by the operator, or raised by what it did
(docs/protocol/02-fleet-management.md §7.3, docs/decisions/0202)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Final, Protocol

from hive_shared.store import Tx

from ..domain.advisor import DAY_S
from ..domain.approval import trust_of
from ..domain.trust import VIOLATIONS, WINDOW_DAYS, Record, trust_by_record
from .ports_commands import CredentialView, Database

_EARLIEST_S: Final = 30 * DAY_S


class TrustRows(Protocol):
    """storage.trust_store.TrustStore."""

    def note(self, tx: Tx, advisor_id: str, day: int, record: Record) -> None: ...
    def record(self, tx: Tx, advisor_id: str, from_day: int) -> Record: ...


class TrustService:
    """Keeps advisors' records and says how far each is trusted.

    `known_since` gives when an advisor was hired without a revocation since (Unix s), None for nobody.
    """

    def __init__(
        self,
        db: Database,
        rows: TrustRows,
        *,
        known_since: Callable[[str], int | None],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._known_since, self._now = db, rows, known_since, now

    def of(self, view: CredentialView) -> Fraction:
        """The r of a command under this credential. Reads at most one row per day of the window."""
        issued, now = view.trust, self._now()
        if view.trust_pinned:
            return trust_of(issued, pin=issued)
        since = self._known_since(view.advisor_id)
        if since is None or now - since < _EARLIEST_S:
            return trust_of(issued)
        first = max(since // DAY_S, now // DAY_S - WINDOW_DAYS)
        record = self._db.peek(lambda tx: self._rows.record(tx, view.advisor_id, first))
        return trust_by_record(issued, since, now, record)

    def executed(self, tx: Tx, advisor_id: str, state: str) -> None:
        """A write ended in a state; what nobody can tell (`indeterminate`) is not held against the agent."""
        if advisor_id and state in ("success", "partial", "error"):
            self._note(tx, advisor_id, Record(writes=1, successes=int(state == "success")))

    def refused(self, tx: Tx, advisor_id: str, symbol: str) -> None:
        """A command was refused on arrival."""
        if advisor_id and symbol in VIOLATIONS:
            self._note(tx, advisor_id, Record(violations=1))

    def _note(self, tx: Tx, advisor_id: str, record: Record) -> None:
        self._rows.note(tx, advisor_id, self._now() // DAY_S, record)
