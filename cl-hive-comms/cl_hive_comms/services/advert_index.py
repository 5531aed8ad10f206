"""What searches look at, worked out once per kept profile (docs/protocol/04-marketplace-and-nostr.md §8).

Of a change of the cache only what changed is worked out again.
"""

from __future__ import annotations

from collections.abc import Mapping

from cl_hive_comms.domain.advert import CachedProfile
from cl_hive_comms.domain.market_match import Searched
from cl_hive_comms.domain.names import drawn_form
from cl_hive_comms.services.advert_cache import AdvertCache


class AdvertIndex:
    """Follows the cache's profiles; asked after a change it catches up."""

    def __init__(self, cache: AdvertCache) -> None:
        self._cache = cache
        self._seen_changes = -1
        self._rows: dict[str, Searched] = {}
        self._first: dict[str, CachedProfile] = {}

    def rows(self) -> Mapping[str, Searched]:
        """All profiles by their ids."""
        if self._seen_changes != self._cache.changes:
            before = self._rows
            self._rows = {
                advisor_id: known
                if (known := before.get(advisor_id)) is not None and known.row is row
                else Searched.of(row)
                for advisor_id, row in self._cache.profiles.items()
            }
            self._first = {}
            for one in self._rows.values():
                first = self._first.setdefault(one.drawn, one.row)
                if _since(one.row) < _since(first):
                    self._first[one.drawn] = one.row
            self._seen_changes = self._cache.changes
        return self._rows

    def known_longest(self, row: CachedProfile) -> CachedProfile | None:
        """Of others whose names look like this one's, who has been known for longest; None where nobody has
        been known for longer than this one."""
        # Who came first under a name is not the one who copies it.
        self.rows()
        first = self._first.get(drawn_form(row.profile.name))
        return first if first is not None and _since(first) < _since(row) else None


def _since(row: CachedProfile) -> tuple[int, int, str]:
    return row.first_seen, row.created_at, row.advisor_id
