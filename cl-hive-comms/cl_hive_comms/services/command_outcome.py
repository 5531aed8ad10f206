"""The end of a command: state, receipt, response and outgoing message in one transaction
(docs/protocol/02-fleet-management.md §7.1 steps 20 and 21, §9; docs/decisions/0071)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from hive_shared import envelope
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue, decode_object, encode
from hive_shared.crypto import sha256
from hive_shared.errors import HiveError
from hive_shared.receipts import Receipt, to_doc
from hive_shared.registry import Danger
from hive_shared.store import Tx

from ..domain.access_fee import NOTHING_PAID, REDEEMED, REFUNDED
from ..domain.alert import PROPOSAL, level_of_danger
from ..domain.command_machine import Event, State
from ..domain.command_record import CommandRow, StoredResponse
from ..domain.compensation import NOT_DUE
from ..domain.sibling_routes import BUILT_IN, CALLER_ANSWERED
from .access_fees import AccessFees
from .command_case import Case, Judged, walk
from .compensation import Compensation
from .executors.action import Outcome
from .executors.config_adjust import ConfigRows
from .ports_commands import Alerts, CommandRows, FeeRows, Identity, Messages, SavedRows
from .receipt_service import ReceiptFields, ReceiptService
from .spend_limits import SpendRows, tell_hit
from .trust_service import TrustService

RESPONSE_KEPT_S: Final = 7 * 86_400
MAX_REFUSED_PARAMS_BYTES: Final = 2_048
_HINTS_AFTER_S: Final = 0.02
MAX_KEPT_ENVELOPE_BYTES: Final = 4_096
_STATUS: Final = {
    "success": envelope.STATUS_SUCCESS,
    "partial": envelope.STATUS_PARTIAL,
    "error": envelope.STATUS_ERROR,
    "indeterminate": envelope.STATUS_ERROR,
    "pending_external": envelope.STATUS_PENDING,
}

_ENDED: Final = {
    "success": Event.ON_SUCCEEDED,
    "partial": Event.ON_PARTLY,
    "error": Event.ON_FAILED,
    "indeterminate": Event.ON_UNPROVABLE,
    "pending_external": Event.ON_UNRESOLVED,
}

Response = dict[str, JsonValue]


def by_message(case: Case, *, deferred: bool = False) -> bool:
    """Whether the response to a command goes out as a message, and not only to who waits for it."""
    # Nobody waits for the answer to what the node gave itself.
    return not case.by_clock and (deferred or case.transport not in CALLER_ANSWERED)


class StateMoved(Exception):
    """The command is no longer in the state this step started from: somebody else ended it."""


class CommandOutcomes:
    """Writes outcomes. Every method joins the caller's transaction; `kick` follows the commit."""

    def __init__(
        self,
        *,
        commands: CommandRows,
        fees: FeeRows,
        saved: SavedRows,
        settings: ConfigRows,
        spends: SpendRows,
        access: AccessFees,
        rewards: Compensation,
        receipts: ReceiptService,
        identity: Identity,
        messages: Messages,
        alerts: Alerts,
        trust: TrustService,
        now: Callable[[], int],
        on_receipt: Callable[[int, str], None] | None = None,
    ) -> None:
        self._commands, self._fees, self._receipts = commands, fees, receipts
        self._saved, self._settings, self._spends = saved, settings, spends
        self._identity, self._messages, self._alerts, self._now = identity, messages, alerts, now
        self._trust, self._on_receipt, self._access = trust, on_receipt, access
        self._rewards = rewards
        # Written by the database's thread, read by the loop's: a deque needs no lock for that.
        self._told: deque[tuple[int, str]] = deque(maxlen=1_000)

    def kick(self, *, messages: bool = True) -> None:
        """Send what the transaction enqueued, if it did, and tell of its receipts soon."""
        if messages:
            self._messages.kick()
        self._rewards.kick()
        if self._told:
            # A hint: it goes the same way to the node as an answer that is about to be given, behind it.
            asyncio.get_running_loop().call_later(_HINTS_AFTER_S, self._tell)

    def _tell(self) -> None:
        while self._told:
            receipt_id, status = self._told.popleft()
            if self._on_receipt is not None:
                self._on_receipt(receipt_id, status)

    def unnumbered(self, nonce: int, error: HiveError, command_id: str | None = None) -> Response:
        """A signed refusal that nothing was stored for: seq 0 stands outside the sequence."""
        doc = envelope.build_response(
            request_nonce=nonce,
            status=envelope.status_of(error),
            seq=0,
            timestamp=self._now(),
            command_id=command_id,
            error=_error_doc(error),
        )
        return envelope.sign_response(self._identity.secret(), doc)

    def unstored(self, case: Case, result: JsonValue, error: HiveError | None) -> Response:
        """A signed answer to a read while the disk takes nothing: outside the sequence, not kept."""
        doc = envelope.build_response(
            request_nonce=case.command.nonce,
            status=envelope.STATUS_SUCCESS if error is None else envelope.status_of(error),
            seq=0,
            timestamp=self._now(),
            command_id=case.command_id,
            result=result,
            error=None if error is None else _error_doc(error),
        )
        return envelope.sign_response(self._identity.secret(), doc)

    def state_of(self, case: Case, row: CommandRow | None, first_response: str | None) -> Response:
        """What became of a command that is known under this id or nonce (11 §15.4): the first run's
        outcome under this request's nonce, or status 3 with its state while it has none."""
        first = {} if first_response is None else decode_object(first_response, floats=True)
        status = first.get("status", envelope.STATUS_PENDING)
        assert isinstance(status, int)
        doc = envelope.build_response(
            request_nonce=case.command.nonce,
            status=status,
            seq=0,
            timestamp=self._now(),
            command_id=case.command_id if row is None else row.command_id,
            result=first.get("result") if first else {"state": "unknown" if row is None else row.state},
            error=first.get("error"),
            receipt=first.get("receipt"),
            preimage=self._preimage(case, row, first),
            returned={name: first[name] for name in envelope.RETURNED if name in first},
        )
        return envelope.sign_response(self._identity.secret(), doc)

    def _preimage(self, case: Case, row: CommandRow | None, first: Mapping[str, JsonValue]) -> str | None:
        """What the first run earned by a ticket: of its answer, or kept longer than the answer is."""
        told = first.get("preimage")
        if isinstance(told, str):
            return told
        return None if row is None or first else self._rewards.preimage_again(row.command_id, case)

    def send(self, tx: Tx, case: Case, response: Response, *, deferred: bool = False) -> None:
        """Enqueue a response for an agent whose transport does not wait for it, or one that comes later than
        its request; it goes back over the same transport."""
        if not by_message(case, deferred=deferred):
            return
        self.send_to(
            tx,
            case.sender,
            response,
            key=f"response:{case.sender}:{case.command.nonce}:{response['seq']}:{case.message_id}",
            reply_relays=case.command.reply_relays,
            reply_to=case.message_id if case.transport == "nostr_dm" and case.message_id else None,
            transport=case.transport,
        )

    def send_to(
        self,
        tx: Tx,
        recipient: str,
        response: Response,
        *,
        key: str,
        reply_relays: tuple[str, ...] = (),
        reply_to: str | None = None,
        transport: str = "",
    ) -> None:
        """Enqueue a response under an idempotency key. From a caller who waited, `transport` is not one
        that can be sent over: a direct message goes instead."""
        self._messages.enqueue(
            tx,
            recipient=recipient,
            content=encode(response).decode(),
            kind="response",
            idempotency_key=key,
            expires_at=self._now() + RESPONSE_KEPT_S,
            reply_relays=reply_relays,
            reply_to=reply_to,
            transport="" if transport in BUILT_IN else transport,
        )

    def respond(
        self,
        tx: Tx,
        case: Case,
        status: int,
        *,
        result: JsonValue = None,
        error: HiveError | None = None,
        receipt: JsonValue = None,
        state_hash: str | None = None,
        preimage: str | None = None,
        returned: Mapping[str, JsonValue] | None = None,
        deferred: bool = False,
    ) -> Response:
        """Number, sign, keep and send the response to a command whose nonce is burned."""
        doc = envelope.build_response(
            request_nonce=case.command.nonce,
            status=status,
            seq=self._commands.next_seq(tx, case.sender),
            timestamp=self._now(),
            command_id=case.command_id,
            result=result,
            state_hash=state_hash,
            receipt=receipt,
            error=None if error is None else _error_doc(error),
            preimage=preimage,
            returned=returned,
        )
        response = envelope.sign_response(self._identity.secret(), doc)
        kept = StoredResponse(
            case.sender, case.command.nonce, case.command.body_hash, encode(response).decode(), self._now()
        )
        self._commands.put_response(tx, kept)
        self.send(tx, case, response, deferred=deferred)
        return response

    # -- ends ---------------------------------------------------------------------------------------

    def answer(
        self, tx: Tx, case: Case, result: JsonValue, error: HiveError | None, state_hash: str | None = None
    ) -> Response:
        """End a read or a word of the control schema: no receipt of its own, the hour's roll-up counts it."""
        ended = Event.ON_SUCCEEDED if error is None else Event.ON_FAILED
        if error is not None:
            self._access.give_back(tx, case.command_id)
        self._move(tx, case, State.RECEIVED, Event.ON_ALLOWED, Event.ON_STARTED, ended)
        self._commands.forget_envelope(tx, case.command_id, MAX_KEPT_ENVELOPE_BYTES)
        status = envelope.STATUS_SUCCESS if error is None else envelope.status_of(error)
        return self.respond(tx, case, status, result=result, error=error, state_hash=state_hash)

    def refuse(
        self,
        tx: Tx,
        case: Case,
        error: HiveError,
        *,
        danger: Danger | None = None,
        spec: tuple[str, str] | None = None,
    ) -> Response:
        """End a command that a rule refused on arrival. Repeats within a minute share one receipt (0071)."""
        now = self._now()
        self._trust.refused(tx, case.advisor_id, error.symbol)
        self._access.give_back(tx, case.command_id)
        tell_hit(self._alerts, tx, error)
        self._commands.forget_envelope(tx, case.command_id, MAX_KEPT_ENVELOPE_BYTES)
        shared = self._commands.refusal_receipt(tx, case.sender, error.symbol, now // 60)
        if shared is None:
            receipt = self._receipt(tx, case, State.REJECTED, error=error, danger=danger, spec=spec)
            self._move(
                tx,
                case,
                State.RECEIVED,
                Event.ON_REFUSED,
                slug=error.symbol,
                danger=danger,
                receipt_id=receipt.receipt_id,
            )
            told: JsonValue = to_doc(receipt)
        else:
            self._move(tx, case, State.RECEIVED, Event.ON_REFUSED, slug=error.symbol, danger=danger)
            told = self._receipts.read(tx, shared)
        return self.respond(tx, case, envelope.status_of(error), error=error, receipt=told)

    def end_waiting(
        self, tx: Tx, case: Case, from_state: str, event: Event, error: HiveError, judged: Judged
    ) -> Response:
        """End a command that waited for people: refused, expired or cancelled. Always its own receipt."""
        ended = walk(from_state, event)
        tell_hit(self._alerts, tx, error)
        receipt = self._receipt(tx, case, ended, error=error, danger=judged.danger, judged=judged)
        self._move(tx, case, from_state, event, slug=error.symbol, receipt_id=receipt.receipt_id)
        self._fees.release(tx, case.command_id)
        self._access.give_back(tx, case.command_id)
        return self.respond(
            tx, case, envelope.status_of(error), error=error, receipt=to_doc(receipt), deferred=True
        )

    def finish(
        self,
        tx: Tx,
        case: Case,
        judged: Judged,
        outcome: Outcome,
        *,
        state_before: str | None,
        state_after: str | None,
        deferred: bool,
        from_state: State = State.EXECUTING,
    ) -> Response:
        """End an execution: what happened is receipted whether or not the credential still stands. One whose
        end the node has yet to bring about is answered with status 3 and gets its receipt at that end."""
        if outcome.state == "pending_external":
            return self._left_to_node(tx, case, judged, outcome, state_before, deferred=deferred)
        refunded = not outcome.acted or outcome.state == "error"
        returned = self._access.end(tx, case.command_id, refunded=refunded)
        receipt = self._receipt(
            tx,
            case,
            outcome.state,
            paid=REFUNDED if refunded else REDEEMED,
            earned=self._rewards.finish(tx, case, judged.reward, outcome),
            escrow=self._rewards.escrow_doc(tx, judged.reward, outcome),
            error=outcome.error,
            danger=judged.danger,
            judged=judged,
            result=outcome.result,
            hashes=(state_before, state_after),
        )
        slug = None if outcome.error is None else outcome.error.symbol
        self._move(tx, case, from_state, _ENDED[outcome.state], slug=slug, receipt_id=receipt.receipt_id)
        if outcome.proposal:
            self._propose(tx, case, judged, outcome.proposal)
        else:
            # Trust grows by what an agent does, not by what goes on without it.
            if not case.by_clock:
                self._trust.executed(tx, case.advisor_id, outcome.state)
            self._alert(tx, case, judged, outcome.state, outcome.alert)
        self._fees.add(tx, outcome.fee_writes)
        self._settings.add(tx, outcome.config_changes, case.command_id, self._now())
        self._count(tx, case, outcome)
        self._keep(tx, outcome)
        return self.respond(
            tx,
            case,
            _STATUS[outcome.state],
            result=dict(outcome.result),
            error=outcome.error,
            receipt=to_doc(receipt),
            state_hash=state_after,
            preimage=self._rewards.release(tx, case.command_id, judged.reward, outcome, receipt.receipt_id),
            returned=returned,
            deferred=deferred,
        )

    def _keep(self, tx: Tx, outcome: Outcome) -> None:
        """What is to happen later, and what is held on channels."""
        for kind, subject in outcome.disarm:
            self._commands.disarm(tx, kind, subject)
        for timer in outcome.arm:
            self._commands.set_timer(tx, timer)
        for reason, channel_id in outcome.release:
            self._saved.drop(tx, reason, channel_id)
        for hold in outcome.hold:
            self._saved.hold(tx, hold, self._now())

    def _left_to_node(
        self,
        tx: Tx,
        case: Case,
        judged: Judged,
        outcome: Outcome,
        state_before: str | None,
        *,
        deferred: bool,
    ) -> Response:
        self._move(tx, case, State.EXECUTING, Event.ON_UNRESOLVED)
        self._alert(tx, case, judged, State.PENDING_EXTERNAL, outcome.alert)
        result: dict[str, JsonValue] = {**outcome.result, "state": State.PENDING_EXTERNAL}
        receipt: JsonValue = None
        if outcome.recorded:
            begun = self._receipt(
                tx,
                case,
                State.PENDING_EXTERNAL,
                error=None,
                danger=judged.danger,
                judged=judged,
                result=outcome.result,
                hashes=(state_before, None),
                paid=REDEEMED,
                earned=self._rewards.finish(tx, case, judged.reward, outcome),
                escrow=self._rewards.escrow_doc(tx, judged.reward, outcome),
            )
            receipt = to_doc(begun)
        return self.respond(
            tx, case, envelope.STATUS_PENDING, result=result, receipt=receipt, deferred=deferred
        )

    def _count(self, tx: Tx, case: Case, outcome: Outcome) -> None:
        """Uses and spends: given back when nothing was done; what nobody could prove stays counted."""
        if not outcome.acted:
            self._fees.release(tx, case.command_id)
            self._spends.release(tx, case.command_id)
        elif outcome.state != "indeterminate":
            self._spends.settle(tx, case.command_id, outcome.spent)

    def alert_held(self, tx: Tx, case: Case, judged: Judged) -> None:
        """Tell the operator of a command that waits (02 §7.4)."""
        self._alert(tx, case, judged, "waiting")

    # -- parts --------------------------------------------------------------------------------------

    def _alert(self, tx: Tx, case: Case, judged: Judged, state: str, asked: Level | None = None) -> None:
        level = Level.CRITICAL if state == "indeterminate" else asked or level_of_danger(judged.danger.total)
        what = f"{judged.action} of {judged.schema} (danger {judged.danger.total})"
        text = f"{what}: {state}; action {case.command_id}"
        self._alerts.raise_in(tx, level, f"command_{state}", text, f"command:{case.command_id}:{state}")

    def _propose(self, tx: Tx, case: Case, judged: Judged, told: str) -> None:
        who = f"advisor {case.advisor_id} proposes"
        text = f"{who}: {told}; {judged.action} of {judged.schema}, action {case.command_id}"
        self._alerts.raise_in(tx, Level.NOTICE, PROPOSAL, text, f"{PROPOSAL}:{case.advisor_id}:{told}")

    def _move(
        self,
        tx: Tx,
        case: Case,
        old: str,
        *events: Event,
        slug: str | None = None,
        danger: Danger | None = None,
        receipt_id: int | None = None,
    ) -> None:
        moved = self._commands.move(
            tx,
            case.command_id,
            old,
            walk(old, *events),
            self._now(),
            slug=slug,
            danger=None if danger is None else danger.total,
            receipt_id=receipt_id,
        )
        if not moved:
            raise StateMoved(f"command {case.command_id} is no longer {old}")

    def _receipt(
        self,
        tx: Tx,
        case: Case,
        status: str,
        *,
        error: HiveError | None,
        danger: Danger | None,
        judged: Judged | None = None,
        spec: tuple[str, str] | None = None,
        result: JsonValue = None,
        hashes: tuple[str | None, str | None] = (None, None),
        paid: str = REFUNDED,
        earned: str = NOT_DUE,
        escrow: JsonValue = None,
    ) -> Receipt:
        command = case.command
        schema, action = (
            (judged.schema, judged.action) if judged else spec or (command.schema_type, command.action)
        )
        params: JsonValue = dict(judged.params) if judged else _short(command.params)
        fields = ReceiptFields(
            schema=schema,
            action=action,
            status=status,
            advisor_id=case.advisor_id,
            agent_id=case.agent_id,
            credential_id=case.credential_id or None,
            command_id=case.command_id,
            # What the node gave itself bears no signature of the agent.
            command_hash=None if case.by_clock else command.hash,
            nonce=None if case.by_clock else command.nonce,
            params=params,
            danger=None if danger is None else danger.to_doc(),
            approval=judged.approval_doc() if judged else None,
            payment=_payment(judged, paid, earned),
            escrow=escrow,
            error=None if error is None else _error_doc(error),
            result=result,
            state_hash_before=hashes[0],
            state_hash_after=hashes[1],
            agent_signature=None if case.by_clock else command.signature,
            confirm_signature=judged.confirm_signature if judged else None,
        )
        receipt = self._receipts.append(tx, fields)
        self._told.append((receipt.receipt_id, receipt.status))
        return receipt


def _payment(judged: Judged | None, paid: str, earned: str) -> dict[str, JsonValue]:
    """The `payment` of a receipt: what the agent paid, or what it earns."""
    if judged is not None and judged.fee is not None:
        return judged.fee.doc(paid)
    if judged is not None and judged.reward is not None:
        return judged.reward.doc(earned)
    return dict(NOTHING_PAID)


def _short(params: JsonValue) -> JsonValue:
    """Parameters of a refused command for its receipt; long ones as their hash, because the chain is never
    pruned and whoever holds a credential may send 60 kB of nonsense a minute."""
    text = encode(params)
    if len(text) <= MAX_REFUSED_PARAMS_BYTES:
        return params
    return {"sha256": sha256(text).hex(), "bytes": len(text)}


def _error_doc(error: HiveError) -> dict[str, JsonValue]:
    retry: Mapping[str, JsonValue] = error.data
    after = retry.get("retry_after")
    return envelope.error_doc(error, after if isinstance(after, int) else None)
