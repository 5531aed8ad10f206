"""Kept pushes, sealed: a credential offer carries the agent's rune (docs/protocol/02 §15.25, 08 §5.3)."""

from __future__ import annotations

import base64

from hive_shared.crypto import Sealer
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.command_record import StoredResponse
from .command_store import CommandStore


class PushStore(CommandStore):
    """The command store for `CommandPush`: what it keeps for `push_poll` is unreadable in the file."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def put_response(self, tx: Tx, response: StoredResponse) -> None:
        """Keep a push. Bound to its recipient; its number and content are signed inside."""
        sealed = self._sealer.seal(
            "comms_responses", response.sender_key, "response_json", response.response_json.encode()
        )
        super().put_response(tx, replace(response, response_json=base64.b64encode(sealed).decode()))

    def pushes(self, tx: Tx, sender_key: str, since_seq: int, limit: int) -> tuple[str, ...]:
        """Kept pushes in clear. Raises SealBroken when one was sealed by another node or changed."""
        return tuple(
            self._sealer.open("comms_responses", sender_key, "response_json", base64.b64decode(text)).decode()
            for text in super().pushes(tx, sender_key, since_seq, limit)
        )
