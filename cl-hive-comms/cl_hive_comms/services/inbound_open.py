"""Opening direct messages: gift wraps, and kind 4 where the operator allows it
(docs/protocol/04-marketplace-and-nostr.md §6)."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event
from hive_shared.nostr.giftwrap import Message, WrapInvalid, unwrap
from hive_shared.nostr.legacy_dm import KIND_LEGACY, open_legacy

from ..domain.arrival import Forms
from .ports_identity import Clock, NodeKeys

_MAX_AHEAD_S: Final = 900


class Opened(msgspec.Struct, frozen=True):
    """A message, our key it was sealed for, and whether its sender writes (and reads) encrypted kind 4."""

    message: Message
    recipient: str
    legacy: bool


class Opener:
    """Opens what is addressed to one of our keys; `counters` says why the rest was not."""

    def __init__(self, identity: NodeKeys, forms: Forms, counters: Counter[str], now: Clock) -> None:
        self._identity, self._forms, self._counters, self._now = identity, forms, counters, now
        self._keys = nip44.ConversationKeys()

    def open(self, event: Event) -> Opened | None:
        """The message of an event whose id and signature were checked, or None."""
        for pubkey, secret in self._identity.readable_secrets().items():
            if pubkey not in event.tag_values("p"):
                continue
            try:
                if event.kind == KIND_LEGACY:
                    message, legacy = open_legacy(
                        secret,
                        event,
                        encrypted=self._forms.legacy,
                        plain=self._forms.plaintext,
                        keys=self._keys,
                    )
                else:
                    message, legacy = unwrap(secret, event, keys=self._keys, verified=True), False
            except WrapInvalid as error:
                self._counters[f"invalid_{error.reason}"] += 1
                return None
            if message.created_at > self._now() + _MAX_AHEAD_S:
                self._counters["from_the_future"] += 1
                return None
            return Opened(message, pubkey, legacy)
        self._counters["not_for_us"] += 1
        return None
