"""Access paid by ecash: a token that comes with the command (docs/protocol/02-fleet-management.md §7.1, §8;
docs/decisions/0575).

Step 15 looks at the token and asks its mint; nothing is taken. The swap is begun in the transaction of the
`executing` row and the command runs only when the mint has carried it out. What it brought is held by that
operation until the command has ended: then the price is ours and the change the agent's, or all of it is a
token of the agent again, in the transaction that writes the receipt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.journal import Op, OpState, OwnProof, ProofStatus
from hive_shared.cashu.secrets import is_plain
from hive_shared.cashu.settling import WATCH_S
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.cashu.wallet import Beside
from hive_shared.cashu.wallet_service import Given
from hive_shared.errors import Busy, HiveError, from_symbol
from hive_shared.store import StoreError, Tx
from msgspec.structs import replace

from ..domain.access_fee import CASHU, Fee
from ..domain.access_income import ecash_income_of
from ..domain.ecash_fee import EcashFee, FeeState
from ..domain.payment import Payment
from .command_case import Case
from .executors.action import Outcome
from .ports_commands import Alerts, Database

MINT_WAIT_S: Final = 30.0
"""How long a command waits for the mint before its answer says that it does."""
_KEPT_S: Final = 90 * 86_400
_BATCH: Final = 100
_ENDED: Final = (FeeState.KEPT, FeeState.REFUNDED)
_FOREIGN: Final = "mint_not_allowed"
_OF_THE_TOKEN: Final = ("token_invalid", "mint_unavailable", "too_many_proofs", _FOREIGN)


class FeeRows(Protocol):
    """The store of tokens that commands brought (storage.ecash_fee_store.EcashFeeStore)."""

    def get(self, tx: Tx, command_id: str) -> EcashFee | None: ...
    def of_op(self, tx: Tx, op_id: str) -> EcashFee | None: ...
    def taken(self, tx: Tx, ys: Sequence[str], command_id: str) -> bool: ...
    def put(self, tx: Tx, row: EcashFee) -> None: ...
    def forget(self, tx: Tx, command_id: str) -> None: ...
    def prune(self, tx: Tx, states: Sequence[FeeState], before: int, limit: int) -> int: ...


class FeeWallet(Protocol):
    """The ecash wallet (hive_shared.cashu.wallet_service.WalletService)."""

    async def looked_at(self, token: str, timeout: float) -> Given: ...
    async def take_fee(self, token: str, key: str, price_sat: int, timeout: float, beside: Beside) -> Op: ...
    async def driven(self, op_id: str, timeout: float | None = None) -> Op: ...
    @property
    def receive_pubkey(self) -> str: ...


class FeeProofs(Protocol):
    """The wallet's rows (hive_shared.storage.cashu_store.CashuStore)."""

    def op(self, tx: Tx, op_id: str) -> Op: ...
    def proofs(self, tx: Tx, ys: Sequence[str]) -> tuple[OwnProof, ...]: ...
    def settle(self, tx: Tx, op_id: str, ys: Sequence[str], state: ProofStatus, now: int) -> None: ...


class Income(Protocol):
    """The record of payments (storage.payment_store.PaymentStore)."""

    def insert(self, tx: Tx, row: Payment) -> None: ...


class HeldFees:
    """Whether a swap's command still decides what becomes of it (`WalletEnds`)."""

    def __init__(self, rows: FeeRows, alerts: Alerts) -> None:
        self._rows, self._alerts = rows, alerts

    def wants(self, tx: Tx, op: Op) -> bool:
        """False when the command ended without it: then the operator is told whose value came late."""
        row = self._rows.of_op(tx, op.op_id)
        if row is not None and row.state is FeeState.SWAPPING:
            return True
        whose = "an agent" if row is None else f"the agent {row.agent_key}"
        text = (
            f"{op.amount_sats} sat that {whose} paid for a command came after the command had ended"
            f" (operation {op.op_id}): give them back by `hive-client-wallet action=send`"
        )
        self._alerts.raise_in(tx, Level.WARNING, "access_fee_late", text, f"access_fee_late:{op.op_id}")
        return False


class EcashFees:
    """Takes tokens for commands. `accepted` names the operator's mints."""

    def __init__(
        self,
        db: Database,
        rows: FeeRows,
        wallet: FeeWallet,
        proofs: FeeProofs,
        income: Income,
        *,
        accepted: Callable[[], Sequence[str]],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._wallet, self._proofs = db, rows, wallet, proofs
        self._income, self._accepted, self._now = income, accepted, now

    @property
    def mints(self) -> tuple[str, ...]:
        """Mints whose ecash pays here."""
        return tuple(self._accepted())

    def asked(self, price_sats: int) -> dict[str, JsonValue]:
        """What `payment_required` says of this way to pay."""
        return {
            "amount_sats": price_sats,
            "mints": [*self.mints],
            "pubkey": self._wallet.receive_pubkey,
        }

    # -- step 15 ----------------------------------------------------------------------------------------

    async def check(self, command_id: str, token: str, price_sats: int) -> Fee:
        """What a token is good for. Its mint is asked and nothing else happens to it.

        Raises PaymentFailed: mint_untrusted, payment_invalid (data.check), payment_replayed.
        """
        try:
            ys = tuple(y_of(proof.secret) for proof in decode_token(token).proofs)
            if self._db.peek(lambda tx: self._rows.taken(tx, ys, command_id)):
                raise _replayed()
            given = await self._wallet.looked_at(token, MINT_WAIT_S)
        except HiveError as error:
            raise self._refusal(error) from None
        if given.worth_sats < price_sats:
            raise from_symbol(
                "payment_invalid",
                f"the token is worth {given.worth_sats} sat after the mint's fee of {given.fee_sats} sat,"
                f" this command costs {price_sats} sat; it was not touched",
                check="amount",
                price_sats=price_sats,
            )
        ref = hashlib.sha256("".join(sorted(given.ys)).encode()).hexdigest()
        return Fee(CASHU, price_sats, ref, "", 1, given.mint_url, given.ys)

    def _refusal(self, error: HiveError) -> HiveError:
        """What the wallet finds against a token, in the words of 02 §7.2."""
        if error.symbol in ("payment_replayed", "payment_invalid", "mint_untrusted"):
            return error
        if error.symbol == _FOREIGN:
            known = ", ".join(self.mints) or "none"
            return from_symbol(
                "mint_untrusted", f"this node takes ecash of these mints only: {known}", mints=[*self.mints]
            )
        check = error.data.get("check") or error.symbol
        return from_symbol("payment_invalid", f"the token was not taken: {error.detail}", check=check)

    def brought(self, tx: Tx, command_id: str) -> Fee | None:
        """What a waiting command holds."""
        row = self._rows.get(tx, command_id)
        return None if row is None else row.fee

    # -- steps 16 and 17 ----------------------------------------------------------------------------------

    def check_shown(self, case: Case) -> None:
        """Whether others may read a command: what nothing locks is of whoever reads it first. Raises
        PaymentFailed (payment_invalid)."""
        token = decode_token(str(case.command.payment_proof.get("token")))
        if any(is_plain(proof.secret) for proof in token.proofs):
            raise from_symbol(
                "payment_invalid",
                "the approvers of this command are shown it as it came, and could spend its token: bring one"
                " that is locked to `pubkey`; it was not touched",
                check="not_locked",
                pubkey=self._wallet.receive_pubkey,
            )

    def hold(self, tx: Tx, case: Case, fee: Fee) -> None:
        """Keep a token for a command that waits for people; it stays unspent. Raises PaymentFailed when
        another command has it."""
        self._put(tx, case, fee, "", FeeState.HELD)

    def _put(self, tx: Tx, case: Case, fee: Fee, op_id: str, state: FeeState) -> None:
        if self._rows.taken(tx, fee.ys, case.command_id):
            raise _replayed()
        self._rows.put(
            tx, EcashFee(case.command_id, case.sender, case.advisor_id, op_id, fee, state, self._now())
        )

    async def begin(self, case: Case, fee: Fee, start: Callable[[Tx], None]) -> None:
        """Begin the swap together with what starts the command. Raises what `start` does, PaymentFailed,
        StoreError; then nothing was begun."""
        begun = False

        def beside(tx: Tx, op: Op) -> Op:
            nonlocal begun
            start(tx)
            self._put(tx, case, fee, op.op_id, FeeState.SWAPPING)
            begun = True
            return op

        token = str(case.command.payment_proof.get("token"))
        try:
            await self._wallet.take_fee(
                token, f"access:{case.command_id}", fee.amount_sats, MINT_WAIT_S, beside
            )
        except HiveError as error:
            if error.symbol in _OF_THE_TOKEN or "check" in error.data:
                raise self._refusal(error) from None
            raise
        if not begun:
            raise _replayed()

    # -- step 18 ----------------------------------------------------------------------------------------

    async def redeemed(self, command_id: str) -> Outcome | None:
        """Have the mint carry the swap out; None when it has and the command may run, else how the command
        stands instead."""
        row = await self._db.read(lambda tx: self._rows.get(tx, command_id))
        assert row is not None
        op = await self._wallet.driven(row.op_id, MINT_WAIT_S)
        if op.state is not OpState.DONE:
            return _unpaid(op)
        now = self._now()
        try:
            # On disk before the command runs: whoever finds `swapping` knows that it did not.
            await self._db.write(lambda tx: self._rows.put(tx, replace(row, state=FeeState.REDEEMED, at=now)))
        except (StoreError, Busy):
            return _unpaid(op)
        return None

    async def found(self, command_id: str) -> Outcome | None:
        """After a kill, and by the clock: how a command stands that has certainly not run for want of its
        pay; None when its node is to be asked."""

        def body(tx: Tx) -> Op | None:
            row = self._rows.get(tx, command_id)
            if row is None or row.state is not FeeState.SWAPPING:
                return None
            return self._proofs.op(tx, row.op_id)

        op = await self._db.read(body)
        return None if op is None else _unpaid(op)

    # -- the end, inside the caller's transaction -----------------------------------------------------------

    def end(self, tx: Tx, command_id: str, *, refunded: bool) -> dict[str, JsonValue]:
        """The command has ended: what its response gives back, {"change": token} or {"refund": token}."""
        row = self._rows.get(tx, command_id)
        if row is None or row.state not in (FeeState.HELD, FeeState.SWAPPING, FeeState.REDEEMED):
            return {}
        if row.state is FeeState.HELD:
            self._rows.forget(tx, command_id)
            return {}
        op, now = self._proofs.op(tx, row.op_id), self._now()
        if op.state is not OpState.DONE:
            self._without(tx, row, op)
            return {}
        held = [y_of(each.output.secret) for each in op.body.outputs if each.use == "hold"]
        state = FeeState.REFUNDED if refunded else FeeState.KEPT
        self._rows.put(tx, replace(row, state=state, at=now))
        if not refunded:
            self._proofs.settle(tx, op.op_id, held, ProofStatus.UNSPENT, now)
            self._income.insert(
                tx, ecash_income_of(command_id, row.agent_key, row.advisor_id, row.fee.amount_sats, now)
            )
            return {"change": op.body.token} if op.body.token else {}
        proofs = [own.proof for own in self._proofs.proofs(tx, held)]
        proofs += decode_token(op.body.token).proofs if op.body.token else ()
        self._proofs.settle(tx, op.op_id, held, ProofStatus.SPENT, now)
        return {"refund": encode_token(Token(op.mint_url, tuple(proofs)))}

    def _without(self, tx: Tx, row: EcashFee, op: Op) -> None:
        if op.state is OpState.FAILED and not op.watch_until:
            self._rows.forget(tx, row.command_id)
        else:
            # The mint may carry it out late: until then the token pays for nothing else.
            self._rows.put(tx, replace(row, state=FeeState.FAILED, at=self._now()))

    async def tidy(self) -> None:
        """Forget what ended long ago."""
        now = self._now()

        def body(tx: Tx) -> None:
            self._rows.prune(tx, _ENDED, now - _KEPT_S, _BATCH)
            self._rows.prune(tx, (FeeState.FAILED,), now - WATCH_S, _BATCH)

        await self._db.write(body, durable=False)


def _unpaid(op: Op) -> Outcome:
    if op.open:
        waits: dict[str, JsonValue] = {"waiting_for": "mint"}
        return Outcome("pending_external", waits, acted=False)
    if op.state is OpState.FAILED:
        text = f"the token was not taken: {op.error or 'nothing came of its exchange'}; nothing was changed"
        return Outcome(
            "error", {}, from_symbol("payment_invalid", text, check=op.reason or "mint"), acted=False
        )
    text = (
        "the mint's answer about the token came too late to run the command: nothing was changed, `refund`"
        " has the value of the token"
    )
    return Outcome("error", {}, from_symbol("payment_invalid", text, check="late"), acted=False)


def _replayed() -> HiveError:
    return from_symbol(
        "payment_replayed", "ecash of this token pays, or paid, for another command; bring another token"
    )
