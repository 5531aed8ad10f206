"""hive:control/v1: what every credential holder may say (docs/protocol/02-fleet-management.md §4, 11 §15).

Free of danger, price and policy; each answers from what the node knows or moves a waiting command.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeVar

from hive_shared import crypto, receipts
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.credential import doc_hash
from hive_shared.envelope import ack_digest
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import find, parse_params
from hive_shared.store import Tx

from ..domain.command_record import CommandRow
from ..domain.receipt_record import AckRow, ReceiptRow
from .approval_service import ApprovalService
from .command_case import Case
from .command_push import CommandPush
from .executors.action import Params
from .executors.pages import PAGE_BYTES
from .ports_commands import CommandRows, Database, ReceiptRows
from .receipt_service import ReceiptService

_ROOTS_PER_PAGE: Final = 50
_PATHS_MAX: Final = 100


T = TypeVar("T")


class Acknowledgements(Protocol):
    """Where agents' words on pushes go."""

    async def credential_ack(self, credential_id: str, sender_key: str, accepted: bool) -> bool:
        """Note whether the agent took its credential; False for one that is not this agent's."""
        ...

    async def resend_credential(self, credential_id: str) -> None:
        """Send the credential offer again."""
        ...


Capabilities = Callable[[Case], Awaitable[dict[str, JsonValue]]]
Word = Callable[[Case, Params], Awaitable[dict[str, JsonValue]]]
"""What answers one action."""


class ControlActions:
    """Answers the control schema. `further` are the words of other services."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        receipt_rows: ReceiptRows,
        receipts: ReceiptService,
        approvals: ApprovalService,
        push: CommandPush,
        acknowledgements: Acknowledgements,
        capabilities: Capabilities,
        quote: Word,
        further: Mapping[str, Word],
        now: Callable[[], int],
    ) -> None:
        self._db, self._commands, self._receipt_rows = db, commands, receipt_rows
        self._receipts, self._approvals, self._push = receipts, approvals, push
        self._acks, self._capabilities, self._quote, self._now = acknowledgements, capabilities, quote, now
        self._words: Mapping[str, Word] = {
            **further,
            "capabilities": self._capable,
            "quote": quote,
            "command_status": self._command_status,
            "cancel": self._cancel,
            "confirm": self._confirm,
            "approve": self._approve,
            "reject": self._reject,
            "credential_ack": self._credential_ack,
            "receipts_list": self._receipts_list,
            "receipt_ack": self._receipt_ack,
            "ping": self._ping,
            "alert_ack": self._noted,
            "push_poll": self._push_poll,
        }

    async def run(self, case: Case) -> dict[str, JsonValue]:
        """The result of one control command. Raises HiveError."""
        spec = find(case.command.schema_type, case.command.action)
        params = parse_params(spec, case.command.params)
        word = self._words.get(spec.name)
        if word is None:
            raise from_symbol(
                "unsupported_action", f"{spec.name} is not served by this version", action=spec.name
            )
        return await word(case, params)

    # -- about commands ---------------------------------------------------------------------------------

    async def _capable(self, case: Case, params: Params) -> dict[str, JsonValue]:
        if params.get("resend_credential"):
            await self._acks.resend_credential(case.credential_id)
        return await self._capabilities(case)

    async def _command_status(self, case: Case, params: Params) -> dict[str, JsonValue]:
        nonce, command_id = params.get("nonce"), params.get("command_id")

        def body(tx: Tx) -> tuple[CommandRow | None, str | None]:
            if isinstance(nonce, int):
                row = self._commands.by_nonce(tx, case.sender, nonce)
            else:
                row = self._commands.get(tx, str(command_id))
            if row is None or row.sender_key != case.sender:
                return None, None
            stored = self._commands.response(tx, row.sender_key, row.nonce)
            return row, None if stored is None else stored.response_json

        row, response = await self._db.read(body)
        if row is None:
            return {"state": "not_found"}
        result: dict[str, JsonValue] = {"state": row.state, "command_id": row.command_id}
        if response is not None:
            result["response"] = decode_object(response, floats=True)
        return result

    async def _cancel(self, case: Case, params: Params) -> dict[str, JsonValue]:
        command_id = str(params["command_id"])
        await _known(self._approvals.cancel(case.sender, command_id))
        return {"command_id": command_id, "state": "cancelled"}

    async def _confirm(self, case: Case, params: Params) -> dict[str, JsonValue]:
        command_id = str(params["command_id"])
        state = await _known(self._approvals.confirm(case.sender, command_id, str(params["challenge_sig"])))
        return {"command_id": command_id, "state": state}

    async def _approve(self, case: Case, params: Params) -> dict[str, JsonValue]:
        return await self._vote(case, params, "approve")

    async def _reject(self, case: Case, params: Params) -> dict[str, JsonValue]:
        return await self._vote(case, params, "reject")

    async def _vote(
        self, case: Case, params: Params, decision: Literal["approve", "reject"]
    ) -> dict[str, JsonValue]:
        command_id = str(params["command_id"])
        await _known(self._approvals.vote(case.sender, command_id, decision, str(params["sig"])))
        return {"command_id": command_id, "vote": decision}

    # -- receipts ---------------------------------------------------------------------------------------

    async def _receipts_list(self, case: Case, params: Params) -> dict[str, JsonValue]:
        since, limit = params.get("since_id", 0), params.get("limit", 100)
        assert isinstance(since, int) and isinstance(limit, int)
        return await self._db.read(lambda tx: self._chain(tx, case, since, limit, bool(params.get("paths"))))

    def _chain(self, tx: Tx, case: Case, since: int, limit: int, paths: bool) -> dict[str, JsonValue]:
        items: list[JsonValue] = []
        size = 0
        rows = self._receipt_rows.after(tx, since, limit)
        for row in rows:
            size += len(row.document) + 300
            if items and size > PAGE_BYTES:
                break
            items.append(self._seen_by(case, row))
        head = self._receipt_rows.head(tx)
        roots: list[JsonValue] = []
        for root in self._receipt_rows.roots(tx, since, _ROOTS_PER_PAGE):
            doc: dict[str, JsonValue] = {
                "kind": root.kind,
                "start": root.start,
                "first_id": root.first_id,
                "last_id": root.last_id,
                "merkle_root": root.merkle_root,
                "zbase": root.hsm_signature or "",
            }
            if paths and len(roots) < _PATHS_MAX:
                doc["paths"] = self._paths(tx, root.first_id, root.last_id, rows[: len(items)])
            roots.append(doc)
        result: dict[str, JsonValue] = {"count": len(items), "items": items, "roots": roots}
        if head is not None:
            result["head"] = {"receipt_id": head.receipt_id, "receipt_hash": head.receipt_hash}
        if (items and len(items) < len(rows)) or len(rows) == limit:
            result["next_cursor"] = str(rows[len(items) - 1].receipt_id)
        return result

    def _seen_by(self, case: Case, row: ReceiptRow) -> JsonValue:
        doc = self._receipts.document(row)
        if row.advisor_id == case.advisor_id and case.advisor_id:
            return doc
        # Of others: enough to check the chain, and what 02 §7.5 allows to see.
        return {
            "receipt_id": row.receipt_id,
            "prev_hash": row.prev_hash,
            "receipt_hash": row.receipt_hash,
            "node_signature": row.node_signature,
            "schema": row.schema_id,
            "time": row.created_at,
            "result": row.status,
        }

    def _paths(self, tx: Tx, first: int, last: int, rows: Sequence[ReceiptRow]) -> JsonValue:
        hashes = self._receipt_rows.hashes(tx, first, last)
        inside = [row.receipt_id for row in rows if first <= row.receipt_id <= last][:_PATHS_MAX]
        return {str(number): list(receipts.merkle_path(hashes, number - first)) for number in inside}

    async def _receipt_ack(self, case: Case, params: Params) -> dict[str, JsonValue]:
        receipt_id, signature = params["receipt_id"], str(params["sig"])
        assert isinstance(receipt_id, int)
        given = str(params["receipt_hash"])
        if not crypto.schnorr_verify(case.sender, ack_digest(given), signature):
            raise from_symbol("bad_signature", "sig does not sign this receipt_hash")

        def body(tx: Tx) -> None:
            row = self._receipt_rows.get(tx, receipt_id)
            if row is None or row.advisor_id != case.advisor_id or row.receipt_hash != given:
                raise from_symbol(
                    "invalid_params",
                    f"receipt {receipt_id} with this hash is none of yours",
                    param="receipt_id",
                    expected="a receipt of your own commands and its hash",
                )
            self._receipt_rows.add_ack(tx, AckRow(receipt_id, case.sender, signature, self._now()))

        await self._db.write(body)
        return {"receipt_id": receipt_id, "acknowledged": True}

    # -- pushes -----------------------------------------------------------------------------------------

    async def _credential_ack(self, case: Case, params: Params) -> dict[str, JsonValue]:
        credential_id = str(params["credential_id"])
        matches = (
            case.view is not None
            and case.credential_id == credential_id
            and doc_hash(case.view.credential) == params["doc_hash"]
        )
        accepted = bool(params["accepted"])
        if not matches or not await self._acks.credential_ack(credential_id, case.sender, accepted):
            raise from_symbol(
                "invalid_params",
                "the acknowledgement does not fit the credential the command came under",
                param="doc_hash",
                expected="id and document hash of the command's own credential",
            )
        return {"credential_id": credential_id, "accepted": accepted}

    async def _push_poll(self, case: Case, params: Params) -> dict[str, JsonValue]:
        since, limit = params.get("since_seq", 0), params.get("limit", 100)
        assert isinstance(since, int) and isinstance(limit, int)
        kept = await self._db.read(lambda tx: self._push.kept(tx, case.sender, since, limit))
        items: list[JsonValue] = []
        size = 0
        for text in kept:
            size += len(text)
            if items and size > PAGE_BYTES:
                break
            items.append(decode_object(text, floats=True))
        result: dict[str, JsonValue] = {"count": len(items), "items": items}
        last = items[-1] if items else None
        if isinstance(last, dict) and (len(items) < len(kept) or len(kept) == limit):
            result["next_cursor"] = str(last["seq"])
        return result

    async def _ping(self, case: Case, params: Params) -> dict[str, JsonValue]:
        return {"pong": True, "server_time": self._now()}

    async def _noted(self, case: Case, params: Params) -> dict[str, JsonValue]:
        # The command row itself is the record that the agent heard it.
        return {"noted": True}


async def _known(asked: Awaitable[T]) -> T:
    try:
        return await asked
    except HiveError as error:
        # Numbers of the local RPC have no symbol of their own in the envelope (02 §7.2).
        if error.code in (4001, 4015) and error.symbol not in ("stale_state", "conflict_held"):
            raise from_symbol("stale_state", error.detail) from None
        raise
