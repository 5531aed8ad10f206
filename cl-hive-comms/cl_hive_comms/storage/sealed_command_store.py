"""Commands and answers that carry what pays for access: unreadable in the file
(docs/protocol/03-escrow-and-payments.md §14.17, 02 §15.25)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from hive_shared.crypto import Sealer
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.command_record import CommandRow, PendingRow, StoredResponse
from .command_store import CommandStore

_MARK: Final = "sealed:"
_SECRETS: Final = ('"macaroon"', '"preimage"', '"token":"cashu', '"change":"cashu', '"refund":"cashu')


class SealedCommandStore(CommandStore):
    """The command store of the pipeline. Sealed is only what names a macaroon or preimage, or brings ecash:
    all else is on its way to be public to both sides anyway, and every command would pay for it."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def insert(self, tx: Tx, row: CommandRow) -> None:
        """Store a received command. Raises sqlite3.IntegrityError on a used id or nonce."""
        kept = self._closed("comms_commands", row.command_id, "envelope", row.envelope)
        super().insert(tx, replace(row, envelope=kept))

    def get(self, tx: Tx, command_id: str) -> CommandRow | None:
        """The command of that id."""
        row = super().get(tx, command_id)
        return None if row is None else self._command(row)

    def by_nonce(self, tx: Tx, sender_key: str, nonce: int) -> CommandRow | None:
        """The command that burned this nonce of this key."""
        row = super().by_nonce(tx, sender_key, nonce)
        return None if row is None else self._command(row)

    def in_states(
        self, tx: Tx, states: Sequence[str], *, due: int | None = None, limit: int = 1_000
    ) -> tuple[CommandRow, ...]:
        """Commands in any of the states, oldest first; with `due`, only those whose deadline passed."""
        return tuple(map(self._command, super().in_states(tx, states, due=due, limit=limit)))

    def open_of_advisor(self, tx: Tx, advisor_id: str, states: Sequence[str]) -> tuple[CommandRow, ...]:
        """An advisor's commands in any of the states, oldest first."""
        return tuple(map(self._command, super().open_of_advisor(tx, advisor_id, states)))

    def add_pending(self, tx: Tx, row: PendingRow) -> None:
        """Store an action that waits for people; its command has the envelope to go by."""
        kept = self._closed("comms_pending", row.action_id, "envelope_json", row.envelope_json)
        super().add_pending(tx, replace(row, envelope_json=kept))

    def put_response(self, tx: Tx, response: StoredResponse) -> None:
        """Keep the reply to a nonce; a later, final reply replaces the earlier one."""
        kept = self._closed("comms_responses", _name(response), "response_json", response.response_json)
        super().put_response(tx, replace(response, response_json=kept))

    def response(self, tx: Tx, sender_key: str, nonce: int) -> StoredResponse | None:
        """The kept reply to a nonce."""
        found = super().response(tx, sender_key, nonce)
        if found is None:
            return None
        text = self._opened("comms_responses", _name(found), "response_json", found.response_json)
        return replace(found, response_json=text)

    def _command(self, row: CommandRow) -> CommandRow:
        text = self._opened("comms_commands", row.command_id, "envelope", row.envelope)
        return row if text == row.envelope else replace(row, envelope=text)

    def _closed(self, table: str, row: str, column: str, text: str) -> str:
        if not any(name in text for name in _SECRETS):
            return text
        return _MARK + base64.b64encode(self._sealer.seal(table, row, column, text.encode())).decode()

    def _opened(self, table: str, row: str, column: str, text: str) -> str:
        # A document begins with a brace, so the mark is no text that somebody else could have stored.
        if not text.startswith(_MARK):
            return text
        sealed = base64.b64decode(text.removeprefix(_MARK))
        return self._sealer.open(table, row, column, sealed).decode()


def _name(response: StoredResponse) -> str:
    return f"{response.sender_key}:{response.nonce}"
