"""What a mint does, tried out with a few sats: what it says of itself proves nothing
(docs/protocol/03-escrow-and-payments.md §2.3, §4.2).

Seven small locks are made in one swap. Each is first offered with what must not open it, then with what must.
The locks and everything that opens them stand in the wallet's journal before a request leaves: a probe that
is cut short costs nothing but fees. Amounts in sat.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from ..crypto import Secret, sha256
from ..errors import PaymentFailed
from .curve import ORDER, y_of
from .derive import EscrowKeys, public_key
from .journal import PROBE_KEY, Op, OpKind, OpState
from .keysets import Keyset, fee_sats
from .mint_caps import Caps
from .outputs import Output, output, restored
from .ports import MintBook, MintRefused, MintUnavailable
from .secrets import Kind, Lock, SigFlag, build_secret, htlc, multisig, parse_secret
from .settling import Settler
from .token import decode_token
from .wallet import MintKeys, Opening, Order, Wallet
from .wire import BlindedMessage, Proof, SpendState
from .witness import all_digest, build, inputs_digest, sign

__all__ = ["PROBE_KEY", "PROBE_S", "Probe", "Probed", "probe_sats"]

PROBE_S: Final = 600
"""The longest a probe may take; after it the loop opens what is still locked."""
_DAY_S: Final = 86_400
_PAST_S: Final = 3_600
"""How long after a locktime every mint's clock has passed it."""
_SOON_S: Final = 60
_LONGEST_PAUSE_S: Final = 120.0
_Outputs = Sequence[BlindedMessage]
_Witness = Callable[[Proof, _Outputs], str | None]
_REST: Final = ("back", "race", "two", "two_hashed", "refunds")
"""Locks that are opened together."""
_REFUNDED: Final = ("back", "race", "refunds")
"""Of these, what is opened by the refund keys in any case."""


def _lock_sats(keyset: Keyset) -> int:
    """The smallest proof that is worth more than the fee for spending it."""
    fee = fee_sats([keyset.input_fee_ppk])
    worth = next((amount for amount in keyset.denominations if amount > fee), None)
    if worth is None:
        raise PaymentFailed(
            f"keyset {keyset.id} signs no amount above its own fee of {fee} sat", reason="mint_nonconformant"
        )
    return worth


def probe_sats(keyset: Keyset) -> int:
    """How many sats a probe with this keyset needs at hand: at least 32 (03 §4.2)."""
    locked = (len(_REST) + 2) * _lock_sats(keyset)
    return max(32, locked + fee_sats([keyset.input_fee_ppk] * 32))


class Probed(msgspec.Struct, frozen=True):
    """What a probe showed, and what the mint kept of the sats."""

    caps: Caps
    cost_sats: int


class _Keys:
    """The keys of one probe: its name in the journal makes them again."""

    def __init__(self, keys: EscrowKeys, name: str) -> None:
        self.payee, self.second, self.refund, self.stranger = (
            keys.lock(f"{name}/{each}") for each in ("payee", "second", "refund", "stranger")
        )
        self.preimage = keys.lock(f"{name}/preimage").reveal().hex()

    def locks(self, at: int) -> dict[str, Lock]:
        """The locks of a probe begun at a time (Unix s)."""
        hashed = sha256(bytes.fromhex(self.preimage)).hex()
        payee, second, refund = (public_key(key) for key in (self.payee, self.second, self.refund))
        soon, late, both = at + _DAY_S, at - _DAY_S, (payee, second)
        return {
            "plain": htlc(hashed, payee, locktime=soon, refund=refund),
            "back": htlc(hashed, payee, locktime=late, refund=refund),
            "race": htlc(hashed, payee, locktime=late, refund=refund),
            "two": multisig(both, 2, locktime=soon, refund=refund),
            "two_hashed": multisig(both, 2, locktime=soon, refund=refund, hash_hex=hashed),
            "bound": multisig(both, 2, locktime=soon, refund=refund, sigflag=SigFlag.SIG_ALL),
            "refunds": Lock(Kind.P2PK, None, (payee,), late, (refund, second), None, 2, None),
        }

    def right(self, name: str) -> _Witness:
        """What opens a lock at every mint that keeps to the conditions."""
        both = (self.payee, self.second)
        return {
            "plain": _signed(self.payee, preimage=self.preimage),
            "back": _signed(self.refund),
            "race": _signed(self.refund),
            "two": _signed(*both),
            "two_hashed": _signed(*both, preimage=self.preimage),
            "bound": _signed_all(*both),
            "refunds": _signed(self.refund, self.second),
        }[name]

    def wrong(self, name: str) -> tuple[_Witness, ...]:
        """What must not open it."""
        of_stranger = self.stranger.reveal().hex()
        return {
            "plain": (
                _nothing,
                lambda _proof, _outputs: msgspec.json.encode({"preimage": self.preimage}).decode(),
                _signed(self.payee),
                _signed(self.stranger, preimage=self.preimage),
                _signed(self.payee, preimage=of_stranger),
            ),
            "back": (_signed(self.stranger),),
            "race": (),
            "two": (_signed(self.payee, self.payee),),
            "two_hashed": (_signed(self.payee, preimage=self.preimage),),
            "bound": (_signed(self.payee, self.second),),
            "refunds": (_signed(self.refund),),
        }[name]


class Probe:
    """Probes of mints with ecash of this wallet."""

    def __init__(
        self,
        wallet: Wallet,
        settler: Settler,
        mints: MintBook,
        keys: EscrowKeys,
        *,
        now: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]],
        random_bytes: Callable[[int], bytes],
        leisure: Callable[[str], float] = lambda _: 0.0,
        owner: str = "comms",
    ) -> None:
        """`leisure` is how many seconds what nobody waits for has to wait at a mint."""
        self._owner, self._leisure = owner, leisure
        self._wallet, self._settler, self._mints, self._keys = wallet, settler, mints, keys
        self._now, self._sleep, self._random_bytes = now, sleep, random_bytes

    async def run(self, keys: MintKeys, *, leisurely: bool = False) -> Probed:
        """Try everything out; `leisurely`: nobody waits for it, and calls of others go first.

        Raises PaymentFailed `insufficient_ecash` for too few sats, and when the mint answers falsely or not
        at all: what is locked then the loop opens."""
        order = Order(f"{PROBE_KEY}{self._random_bytes(16).hex()}", self._owner)
        locks = _Keys(self._keys, order.key).locks(self._now())
        made = [self._output(keys.active, lock) for lock in locks.values()]
        if leisurely:
            await self.make_way(keys.mint_url)
        op = await self._wallet.lock(order, keys, made, kind=OpKind.PROBE)
        op = await self._settler.advance(op.op_id)
        if op.state is not OpState.DONE:
            raise PaymentFailed(
                op.error or "the mint did not make the locks of the probe", reason=op.reason or None
            )
        restores = await self._gives_back(op, keys)
        trials = _Trials(self, op, keys, leisurely=leisurely)
        return await trials.run(restores)

    async def make_way(self, mint_url: str) -> None:
        """Wait as long as others have need of the mint."""
        while (wait := self._leisure(mint_url)) > 0:
            await self._sleep(wait)

    async def open_again(self, op: Op, keys: MintKeys) -> int | None:
        """Have the loop open the locks of a probe that a crash ended. From when on (Unix s) something is to
        be done about it again; None: never. Raises what a mint's answer means."""
        return await _Trials(self, op, keys).begin_again()

    async def unspent(self, mint_url: str, proofs: Mapping[str, Proof]) -> list[str]:
        """The names of those that nobody has spent."""
        told = await self._mints.at(mint_url).checkstate([y_of(each.secret) for each in proofs.values()])
        left = {entry.Y for entry in told if entry.state is not SpendState.SPENT}
        return [name for name, proof in proofs.items() if y_of(proof.secret) in left]

    async def exchange(self, keys: MintKeys, openings: Sequence[Opening], not_before: int) -> list[Op]:
        """Operations of a probe, in the journal."""
        return await self._wallet.exchange(keys, openings, self._owner, not_before)

    async def offer(self, op: Op, inputs: Sequence[Proof]) -> Op | None:
        """`Settler.offer`; the mint's request budget is waited for, it is ours to keep."""
        while True:
            try:
                return await self._settler.offer(op, inputs)
            except MintUnavailable as error:
                if error.sent or not 0 < error.retry_after_s <= _LONGEST_PAUSE_S:
                    raise
                await self._sleep(error.retry_after_s)

    async def drop(self, op: Op) -> Op:
        """`Settler.drop`."""
        return await self._settler.drop(op, "mint_refused", "the mint does not open this lock of the probe")

    def keys_of(self, op: Op) -> _Keys:
        """The keys of a probe in the journal."""
        return _Keys(self._keys, op.idempotency_key)

    def now(self) -> int:
        """Unix seconds."""
        return self._now()

    def until(self) -> int:
        """When the loop takes over, Unix seconds."""
        return self._now() + PROBE_S

    def _output(self, keyset: Keyset, lock: Lock) -> Output:
        secret = build_secret(lock, self._random_bytes(16).hex())
        r = int.from_bytes(self._random_bytes(32)) % (ORDER - 1) + 1
        return output(_lock_sats(keyset), keyset.id, secret, r.to_bytes(32))

    async def _gives_back(self, op: Op, keys: MintKeys) -> bool:
        """Whether the mint restores the whole answer of the swap that made the locks."""
        made = [planned.output for planned in op.body.outputs]
        try:
            answer = await self._mints.at(op.mint_url).restore([each.message for each in made])
        except MintRefused:
            return False
        found = restored(made, answer.outputs, answer.signatures, keys.every)
        ours = {proof.C for proof in decode_token(op.body.token).proofs}
        return len(found) == len(made) and ours <= {proof.C for proof in found.values()}


class _Trials:
    """The locks of one probe, offered and opened."""

    def __init__(self, probe: Probe, op: Op, keys: MintKeys, *, leisurely: bool = False) -> None:
        self._leisurely = leisurely
        self._probe, self._op, self._mint_keys, self._keys = probe, op, keys, probe.keys_of(op)
        # The order of the outputs is that in which the locks were made: their amounts are one.
        secrets = [planned.output.secret for planned in op.body.outputs if planned.use == "lock"]
        proofs = {proof.secret: proof for proof in decode_token(op.body.token).proofs}
        ids = {planned.output.secret: planned.output.keyset_id for planned in op.body.outputs}
        self._locked = {
            name: msgspec.structs.replace(proofs[secret], id=ids[secret])
            for name, secret in zip(self._keys.locks(0), secrets, strict=True)
        }
        self._got = 0
        self._gone: set[str] = set()

    async def begin(self, not_before: int) -> tuple[Op, Op, Op]:
        """The operations that open all locks rightly: the plain one, the rest, the one under SIG_ALL."""
        first, rest, bound = await self._probe.exchange(
            self._mint_keys,
            [
                self._opening("first", "plain"),
                self._opening("rest", *_REST),
                self._opening("bound", "bound"),
            ],
            not_before,
        )
        return first, rest, bound

    async def begin_again(self) -> int | None:
        """All of them for the loop; once these have ended, what is still locked one by one and by every way
        there is, each when the one before it was refused. From when on to look again, None for never."""
        now = self._probe.now()
        if any(op.open for op in await self.begin(not_before=0)):
            return now
        left = await self._probe.unspent(self._op.mint_url, self._locked)
        again = [at for name in left if (at := await self._begin_next(name, now)) is not None]
        return min(again, default=None)

    async def _begin_next(self, name: str, now: int) -> int | None:
        """The next way to open a lock that is still there; when to look after it, None where all were
        tried."""
        proof, refunded_at = self._locked[name], self._refunded_at(name)
        for number, (way, witness) in enumerate(self._ways(name)):
            if number and now < refunded_at:
                # Until then it opens to nobody else, and what is tried too early is not tried again.
                return refunded_at

            def signed(outputs: _Outputs, witness: _Witness = witness) -> list[Proof]:
                return [_offered(proof, witness, outputs)]

            opening = Opening(f"{self._op.idempotency_key}:{way}", [proof], signed)
            (op,) = await self._probe.exchange(self._mint_keys, [opening], 0)
            if op.open:
                return now + _SOON_S
        return None

    def _ways(self, name: str) -> list[tuple[str, _Witness]]:
        """What else opens a lock, under the key that its operation has. After the locktime a mint may open it
        for the refund key alone."""
        refund = self._keys.refund
        if name == "bound":
            return [
                ("bound_old", self._old_form()),
                ("bound_back", _signed_all(refund)),
                ("bound_back_old", _signed_all_old(refund)),
            ]
        right = [(f"{name}:again", self._keys.right(name))]
        return right if name in _REFUNDED else [*right, (f"{name}:back", _signed(refund))]

    def _refunded_at(self, name: str) -> int:
        lock = parse_secret(self._locked[name].secret).lock
        return 0 if lock is None or lock.locktime is None else lock.locktime + _PAST_S

    async def run(self, restores: bool) -> Probed:
        first, rest, bound = await self.begin(self._probe.until())
        strict = {}
        for name in ("plain", *_REST):
            first, strict[name] = await self._refuses(first, name)
        opened = {"plain": "plain" not in self._gone and await self._opens(first, "plain")}
        if "plain" in self._gone:
            await self._probe.drop(first)
        opened |= await self._open_rest(rest)
        _, strict["bound"] = await self._refuses(bound, "bound", renew=False)
        opened["bound"] = strict["bound"] and await self._opens(bound, "bound")
        late = opened.pop("late", False)
        kept = {name: strict[name] and opened[name] for name in strict}
        caps = Caps(
            htlc=kept["plain"] and kept["back"],
            multisig=kept["two"] and kept["two_hashed"],
            sigall=kept["bound"],
            late_redeem=late,
            restore=restores,
            n_sigs_refund=kept["refunds"],
        )
        return Probed(caps, self._op.amount_sats + self._op.fee_sats - self._got)

    async def _refuses(self, op: Op, name: str, *, renew: bool = True) -> tuple[Op, bool]:
        """Whether the mint refuses everything wrong for a lock, offered for this operation's outputs, and the
        operation for what is offered next."""
        for witness in self._keys.wrong(name):
            if (done := await self._offer(op, [self._with(op, name, witness)])) is not None:
                self._took(done)
                self._gone.add(name)
                if not renew:
                    return op, False
                opening = self._opening(f"first:{len(self._gone)}", "plain")
                (op,) = await self._probe.exchange(self._mint_keys, [opening], self._probe.until())
                return op, False
        return op, True

    async def _open_rest(self, op: Op) -> dict[str, bool]:
        """The rest in one swap, the late one by its preimage when the mint still takes that; else one by
        one."""
        late = _signed(self._keys.payee, preimage=self._keys.preimage)
        if not self._gone.intersection(_REST):
            right = {name: self._keys.right(name) for name in _REST}
            for tried in ({**right, "race": late}, right):
                inputs = [self._with(op, name, witness) for name, witness in tried.items()]
                if (done := await self._offer(op, inputs)) is not None:
                    self._took(done)
                    return {**dict.fromkeys(_REST, True), "late": tried["race"] is late}
        await self._probe.drop(op)
        opened: dict[str, bool] = {}
        for name in (each for each in _REST if each not in self._gone):
            (alone,) = await self._probe.exchange(
                self._mint_keys, [self._opening(name, name)], self._probe.until()
            )
            if name == "race" and (done := await self._offer(alone, [self._with(alone, name, late)])):
                self._took(done)
                opened |= {name: True, "late": True}
            else:
                opened[name] = await self._opens(alone, name)
        return {**dict.fromkeys(self._gone.intersection(_REST), False), **opened}

    async def _opens(self, op: Op, name: str) -> bool:
        witnesses = [self._keys.right(name)]
        if name == "bound":
            # What nutshell up to 0.20 wants signed: no mark of a mint that does it, but our sats again.
            witnesses.append(self._old_form())
        for number, witness in enumerate(witnesses):
            if (done := await self._offer(op, [self._with(op, name, witness)])) is not None:
                self._took(done)
                return number == 0
        await self._probe.drop(op)
        return False

    def _old_form(self) -> _Witness:
        return _signed_all_old(self._keys.payee, self._keys.second)

    async def _offer(self, op: Op, inputs: Sequence[Proof]) -> Op | None:
        if self._leisurely:
            await self._probe.make_way(op.mint_url)
        return await self._probe.offer(op, inputs)

    def _took(self, done: Op) -> None:
        self._got += done.amount_sats

    def _opening(self, key: str, *names: str) -> Opening:
        proofs = [self._locked[name] for name in names]

        def signed(outputs: _Outputs) -> list[Proof]:
            return [_offered(self._locked[name], self._keys.right(name), outputs) for name in names]

        return Opening(f"{self._op.idempotency_key}:{key}", proofs, signed)

    def _with(self, op: Op, name: str, witness: _Witness) -> Proof:
        outputs = [planned.output.message for planned in op.body.outputs]
        return _offered(self._locked[name], witness, outputs)


def _offered(proof: Proof, witness: _Witness, outputs: _Outputs) -> Proof:
    return msgspec.structs.replace(proof, witness=witness(proof, outputs))


def _nothing(_proof: Proof, _outputs: _Outputs) -> None:
    return None


def _signed(*signers: Secret, preimage: str | None = None) -> _Witness:
    def witness(proof: Proof, _outputs: _Outputs) -> str:
        digest = inputs_digest(proof.secret)
        return build(preimage, [sign(key, digest) for key in signers])

    return witness


def _signed_all(*signers: Secret) -> _Witness:
    def witness(proof: Proof, outputs: _Outputs) -> str:
        digest = all_digest([proof], outputs)
        return build(None, [sign(key, digest) for key in signers])

    return witness


def _signed_all_old(*signers: Secret) -> _Witness:
    def witness(proof: Proof, outputs: _Outputs) -> str:
        digest = sha256((proof.secret + "".join(each.B_ for each in outputs)).encode())
        return build(None, [sign(key, digest) for key in signers])

    return witness
