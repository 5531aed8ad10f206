"""What the node tells an agent unasked: signed, numbered, kept for a week (docs/protocol/11 §15.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hive_shared import envelope
from hive_shared.canonical import JsonValue, encode
from hive_shared.store import Tx

from ..domain.command_record import StoredResponse
from .ports_commands import Identity, Messages, ReplayRows

KEPT_S: Final = 7 * 86_400


class CommandPush:
    """Sends pushes to agents inside the caller's transaction."""

    def __init__(
        self, rows: ReplayRows, identity: Identity, messages: Messages, now: Callable[[], int]
    ) -> None:
        self._rows, self._identity, self._messages, self._now = rows, identity, messages, now

    def push(
        self, tx: Tx, recipient: str, action: str, payload: Mapping[str, JsonValue], *, ttl: int = KEPT_S
    ) -> int:
        """Build, sign, number, keep and enqueue a push; returns its seq. `recipient` is x-only hex.

        Raises InvalidParams when the body is not what the registry says of this push.
        """
        now = self._now()
        seq = self._rows.next_seq(tx, recipient)
        doc = envelope.sign_push(
            self._identity.secret(),
            envelope.build_push(
                action,
                payload,
                node_key=self._identity.pubkey,
                agent_key=recipient,
                seq=seq,
                timestamp=now,
            ),
        )
        text = encode(doc).decode()
        self._rows.put_response(tx, StoredResponse(recipient, -seq, "", text, now))
        self._messages.enqueue(
            tx,
            recipient=recipient,
            content=text,
            kind="push",
            idempotency_key=f"push:{recipient}:{seq}",
            expires_at=now + ttl,
        )
        return seq

    def kick(self) -> None:
        """Send what is due; call after the commit."""
        self._messages.kick()

    def kept(self, tx: Tx, recipient: str, since_seq: int, limit: int) -> tuple[str, ...]:
        """Pushes of the last week above a seq, for agents without relays (`push_poll`)."""
        return self._rows.pushes(tx, recipient, since_seq, limit)
