"""Commands that the node gives itself, under the credential whose holder asked for them beforehand
(docs/decisions/0426). They are envelopes like all others, signed by the node's own key, so that they are
stored, judged, run and looked into after a crash like all others."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from hive_shared import envelope
from hive_shared.canonical import JsonValue, encode

from ..domain.sibling_routes import BY_CLOCK
from .command_case import Case
from .ports_commands import CommandRows, CredentialView, Database, Identity


class NodeCommands:
    """Makes them. The node's own key numbers them; nobody else can use it as a sender."""

    def __init__(
        self,
        db: Database,
        commands: CommandRows,
        identity: Identity,
        random_bytes: Callable[[int], bytes],
        now: Callable[[], int],
    ) -> None:
        self._db, self._commands, self._identity = db, commands, identity
        self._random, self._now = random_bytes, now

    async def make(
        self, schema: str, action: str, params: dict[str, JsonValue], view: CredentialView
    ) -> Case:
        """A command of this credential that came by the clock. Its nonce is used up when it is stored."""
        key, now = self._identity.pubkey, self._now()
        nonce = 1 + await self._db.read(lambda tx: self._commands.last_nonce(tx, key))
        command_id = str(uuid.UUID(bytes=self._random(16), version=4))
        document = envelope.sign_command(
            self._identity.secret(),
            {
                "v": envelope.VERSION,
                "schema_type": schema,
                "schema_payload": {"action": action, "params": params},
                "credential": {"credential_id": view.credential.credential_id},
                "payment_proof": {"method": "none"},
                "nonce": envelope.nonce_json(nonce),
                "timestamp": now,
                "node": key,
                "sender": key,
                "command_id": command_id,
            },
        )
        return Case(
            command=envelope.decode_command(encode(document)),
            view=view,
            command_id=command_id,
            transport=BY_CLOCK,
            message_id="",
            received_at=now,
            advisor_id=view.advisor_id,
            credential_id=view.credential.credential_id,
        )
