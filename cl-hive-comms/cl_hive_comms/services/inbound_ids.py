"""Ids by which repeats of messages are recognised, in memory (docs/protocol/04-marketplace-and-nostr.md §6
"Subscribe")."""

from collections import OrderedDict


class MessageIds:
    """The newest ids of a bounded number of messages."""

    def __init__(self, limit: int) -> None:
        self._limit, self._ids = limit, OrderedDict[str, None]()

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def add(self, name: str) -> None:
        """Remember one; the oldest goes for it when there are too many."""
        self._ids[name] = None
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def discard(self, name: str | None) -> None:
        """Forget one, if it is there."""
        if name is not None:
            self._ids.pop(name, None)


class EitherIds:
    """The ids of both sides; what is added goes to the side of its sender."""

    def __init__(self, known: MessageIds, strangers: MessageIds, is_known: bool) -> None:
        self._known, self._strangers, self._is_known = known, strangers, is_known

    def __contains__(self, name: str) -> bool:
        return name in self._known or name in self._strangers

    def add(self, name: str) -> None:
        """Remember one on the side of its sender."""
        (self._known if self._is_known else self._strangers).add(name)
