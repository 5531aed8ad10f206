"""hive-comms-cashu-*: ecash under conditions for sibling plugins (docs/protocol/03 §9).

A token stands in the answer of -lock, and of -state with tokens=true; a preimage in that of -state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from hive_shared.cashu.curve import is_point
from hive_shared.cashu.journal import Op, OpState
from hive_shared.cashu.lock_machine import HOLDING, LockState
from hive_shared.cashu.mint_url import normal_mint_url
from hive_shared.cashu.secrets import Lock
from hive_shared.cashu.terms import Terms, decode_terms
from hive_shared.cashu.wallet import MAX_AMOUNT_SAT
from hive_shared.cashu.wallet_service import WalletService
from hive_shared.errors import InvalidParams, NotFound
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.runtime_spec import MethodSpec, Param
from hive_shared.validation_words import in_words

from cl_hive_comms.domain.cashu_lock import LockRow, Role
from cl_hive_comms.domain.payment import SIBLING_BUDGETS
from cl_hive_comms.services.sibling_locks import MOST_YS, OWNER, Conditions, Package, SiblingLocks
from cl_hive_comms.services.sibling_payees import SiblingPayees

_CONTEXT: Final = re.compile(r"[!-~]{1,128}").fullmatch
_HEX32: Final = re.compile(r"[0-9a-f]{32}").fullmatch
_POINT: Final = re.compile(r"0[23][0-9a-f]{64}").fullmatch
_KEY: Final = Param("idempotency_key", "str", required=True, minimum=1, maximum=128)
_TIMEOUT: Final = Param("timeout", "int", default=30, minimum=1, maximum=300)
_LOCKS: Final = (Param("lock_id", "str", maximum=32), Param("lock_ids", "json"))
_MOST_LOCKS: Final = 512
T = TypeVar("T")
_Amounts = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT_SAT)]], msgspec.Meta(min_length=1, max_length=512)
]


class SiblingCashuCommands:
    """Methods of class S about ecash. The runtime has checked the caller's `auth`."""

    def __init__(
        self,
        locks: Callable[[], SiblingLocks],
        wallet: Callable[[], WalletService],
        payees: Callable[[], SiblingPayees],
    ) -> None:
        self._locks, self._wallet, self._payees = locks, wallet, payees

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [*self._locking(), *self._spending(), *self._asking()]

    def _locking(self) -> list[MethodSpec]:
        return [
            MethodSpec(
                "hive-comms-cashu-pubkey",
                "S",
                (
                    Param("context", "str", required=True, maximum=128),
                    Param("role", "str", default="payee", choices=("payee", "payer")),
                ),
                self._pubkey,
                "The key that ecash is locked to for a context (role payer: that takes back the money of the"
                " ticket of this id), bound to it by this node's Nostr key.",
            ),
            MethodSpec(
                "hive-comms-cashu-payee",
                "S",
                (
                    Param("agent", "str", required=True, maximum=64),
                    Param("amounts", "json", required=True),
                    Param("window_s", "int", required=True, minimum=60, maximum=366 * 86_400),
                    Param("mints", "json", required=True),
                    Param("payee_pubkey", "str", maximum=66),
                ),
                self._payee,
                "The key that an agent's tickets are locked to, and which of the caller's mints take one of"
                " this size now.",
            ),
            MethodSpec(
                "hive-comms-cashu-lock",
                "S",
                (
                    Param("kind", "str", default="ticket", choices=("ticket", "multisig")),
                    Param("terms", "json"),
                    Param("item", "int", minimum=0, maximum=511),
                    Param("share", "int", minimum=0, maximum=3),
                    Param("conditions", "json"),
                    Param("mint", "str", maximum=1_024),
                    Param("budget", "str", default="fleet", choices=SIBLING_BUDGETS),
                    _KEY,
                    _TIMEOUT,
                ),
                self._lock,
                "Lock ecash for an item of a ticket (all items without item), or for several signers.",
            ),
        ]

    def _spending(self) -> list[MethodSpec]:
        return [
            MethodSpec(
                "hive-comms-cashu-redeem",
                "S",
                (*_LOCKS, Param("preimage", "str", default=""), Param("preimages", "json"), _TIMEOUT),
                self._redeem,
                "Take what is locked for this node, with the preimage.",
            ),
            MethodSpec(
                "hive-comms-cashu-refund",
                "S",
                (*_LOCKS, _TIMEOUT),
                self._refund,
                "Take back what this node locked, after its locktime.",
            ),
            MethodSpec(
                "hive-comms-cashu-sign",
                "S",
                (
                    Param("package", "json", required=True),
                    Param("context", "str", required=True, maximum=128),
                    Param("mint", "str", required=True, maximum=1_024),
                ),
                self._sign,
                "Sign a swap that several sign together, after every output was made anew.",
            ),
            MethodSpec(
                "hive-comms-cashu-melt",
                "S",
                (
                    Param("amount_sats", "int", required=True, minimum=1, maximum=MAX_AMOUNT_SAT),
                    Param("mint", "str", maximum=1_024),
                    _KEY,
                    _TIMEOUT,
                ),
                self._melt,
                "Have a mint pay ecash out to this node over Lightning.",
            ),
        ]

    def _asking(self) -> list[MethodSpec]:
        return [
            MethodSpec(
                "hive-comms-cashu-inspect",
                "S",
                (
                    Param("token", "str", required=True, maximum=262_144),
                    Param("terms", "json"),
                    Param("item", "int", default=0, minimum=0, maximum=511),
                    Param("context", "str", maximum=128),
                    Param("save", "bool", default=False),
                ),
                self._inspect,
                "What a token is, and whether it is what the terms say; save=true notes it as a lock for us.",
            ),
            MethodSpec(
                "hive-comms-cashu-state",
                "S",
                (
                    *_LOCKS,
                    Param("ys", "json"),
                    Param("mint", "str", maximum=1_024),
                    Param("ask", "bool", default=True),
                    Param("tokens", "bool", default=False),
                ),
                self._state,
                "Where locks stand, asked at their mints; or what a mint says of proofs by their names.",
            ),
            MethodSpec(
                "hive-comms-cashu-op",
                "S",
                (Param("op_id", "str", required=True, maximum=32),),
                self._op,
                "What became of an operation with ecash.",
            ),
        ]

    async def _pubkey(self, params: dict[str, Any]) -> dict[str, Any]:
        pubkey, binding = self._locks().pubkey(_context(params["context"]), params["role"] == "payer")
        return {"pubkey": pubkey, "binding": binding}

    async def _payee(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            agent = parse_pubkey(params["agent"])
            urls = [normal_mint_url(url) for url in _texts("mints", params["mints"])]
        except ValueError as error:
            raise InvalidParams(str(error)[:200]) from None
        pubkey = params["payee_pubkey"]
        if pubkey is not None and not is_point(pubkey):
            raise InvalidParams(
                "payee_pubkey is a compressed public key: 66 lower-case hex, 02 or 03 first",
                data={"param": "payee_pubkey"},
            )
        amounts = _read("amounts", params["amounts"], _Amounts)
        needs = await self._payees().needs(agent, amounts, params["window_s"], urls, pubkey)
        shown: dict[str, Any] = {
            "agent": agent,
            "lock_pubkey": needs.lock_pubkey,
            "mints": [{"url": url, "permille": permille} for url, permille in needs.mints],
            "buffer_s": needs.buffer_s,
        }
        return shown if needs.credential_id is None else {**shown, "credential_id": needs.credential_id}

    async def _lock(self, params: dict[str, Any]) -> dict[str, Any]:
        key, budget, timeout = params["idempotency_key"], params["budget"], params["timeout"]
        wrong = ("conditions",) if params["kind"] == "ticket" else ("terms", "item", "share")
        for name in wrong:
            if params[name] is not None:
                raise InvalidParams(f"{name} does not belong to kind={params['kind']}", data={"param": name})
        if params["kind"] == "multisig":
            if params["mint"] is None:
                raise InvalidParams("kind=multisig needs mint=", data={"param": "mint"})
            conditions = _read("conditions", params["conditions"], Conditions)
            row = await self._locks().lock_multisig(key, budget, conditions, params["mint"], timeout)
            return _locked(row)
        terms = _terms(params["terms"])
        if terms is None:
            raise InvalidParams("kind=ticket needs terms=", data={"param": "terms"})
        item, share = params["item"], params["share"]
        if params["mint"] is not None and params["mint"] not in [each.url for each in terms.mints]:
            raise InvalidParams("mint is none of those that the terms name", data={"param": "mint"})
        items = range(len(terms.items)) if item is None else (item,)
        chosen = range(len(terms.mints)) if share is None and item is None else (share or 0,)
        shares = [(number, at) for number in items for at in chosen]
        rows = await self._locks().lock_ticket(key, budget, terms, shares, timeout)
        if item is not None:
            return _locked(rows[0])
        return {"locks": [{"item": row.item, "share": row.share, **_locked(row)} for row in rows]}

    async def _redeem(self, params: dict[str, Any]) -> dict[str, Any]:
        preimages = params["preimages"]
        if preimages is None:
            preimages = dict.fromkeys(_lock_ids(params), params["preimage"])
        elif params["lock_id"] is not None or params["lock_ids"] is not None or params["preimage"]:
            raise InvalidParams("preimages names the locks: leave lock_id, lock_ids and preimage out")
        elif not (
            isinstance(preimages, dict)
            and 0 < len(preimages) <= _MOST_LOCKS
            and all(_HEX32(name) and isinstance(value, str) for name, value in preimages.items())
        ):
            raise InvalidParams(
                f"preimages is an object of at most {_MOST_LOCKS} preimages by lock_id",
                data={"param": "preimages"},
            )
        return await self._spent(await self._locks().redeem(preimages, params["timeout"]))

    async def _refund(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self._spent(await self._locks().refund(_lock_ids(params), params["timeout"]))

    async def _spent(self, rows: Sequence[LockRow]) -> dict[str, Any]:
        under_way = any(row.state in HOLDING for row in rows)
        shown: dict[str, Any] = {
            "state": "pending" if under_way else "done",
            "net_sats": await self._locks().net_sats(rows),
            "locks": [_row(row) for row in rows],
        }
        if len(ops := {row.op_id for row in rows if row.op_id}) == 1:
            shown["op_id"] = ops.pop()
        return shown

    async def _inspect(self, params: dict[str, Any]) -> dict[str, Any]:
        context = None if params["context"] is None else _context(params["context"])
        found = await self._locks().inspect(
            params["token"], _terms(params["terms"]), params["item"], context, save=params["save"]
        )
        shown: dict[str, Any] = {
            "mint": found.mint,
            "amounts": [proof.amount for proof in found.proofs],
            "conditions": [_condition(lock) for lock in dict.fromkeys(found.locks)],
            "dleq_ok": found.dleq_ok,
            "state": found.state,
            "problems": list(found.problems),
        }
        return shown if found.lock_id is None else {**shown, "lock_id": found.lock_id}

    async def _state(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["ys"] is None:
            if params["mint"] is not None:
                raise InvalidParams("mint belongs to ys: a lock knows its own", data={"param": "mint"})
            ids = _lock_ids(params)
            rows = await (self._locks().look(ids) if params["ask"] else self._locks().known(ids))
            answers = await self._locks().answers(ids)
            shown = [_seen(row, answers.get(row.lock_id, [])) for row in rows]
            if params["tokens"]:
                mine = {row.lock_id: row.token for row in rows if row.token and row.role is Role.PAYER}
                for each in shown:
                    if (token := mine.get(each["lock_id"])) is not None:
                        each["token"] = token
            return {"locks": shown}
        ys = params["ys"]
        if params["lock_id"] is not None or params["lock_ids"] is not None:
            raise InvalidParams("give one of lock_id, lock_ids and ys")
        if not (
            isinstance(ys, list)
            and 0 < len(ys) <= MOST_YS
            and all(isinstance(y, str) and _POINT(y) for y in ys)
        ):
            raise InvalidParams(f"ys is a list of 1 to {MOST_YS} points (66 hex)", data={"param": "ys"})
        if params["mint"] is None:
            raise InvalidParams("ys needs mint=", data={"param": "mint"})
        states = await self._locks().states(params["mint"], ys)
        return {"states": [{"y": each.Y, "state": each.state.value.lower()} for each in states]}

    async def _sign(self, params: dict[str, Any]) -> dict[str, Any]:
        package = _read("package", params["package"], Package)
        context = _context(params["context"])
        return {"signature": await self._locks().sign(package, context, params["mint"])}

    async def _melt(self, params: dict[str, Any]) -> dict[str, Any]:
        op = await self._wallet().withdraw(
            params["amount_sats"],
            params["mint"],
            f"{OWNER}:{params['idempotency_key']}",
            params["timeout"],
            owner=OWNER,
        )
        return _shown(op)

    async def _op(self, params: dict[str, Any]) -> dict[str, Any]:
        if not _HEX32(params["op_id"]):
            raise NotFound("op_id is 32 lower-case hex characters, as the call that began it answered")
        return _shown(await self._locks().op(params["op_id"]))


def _context(text: str) -> str:
    if not _CONTEXT(text):
        raise InvalidParams(
            "context is 1 to 128 printable ASCII characters without spaces", data={"param": "context"}
        )
    return text


def _terms(value: object) -> Terms | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidParams("terms is the object that the ticket travels with", data={"param": "terms"})
    return decode_terms(value)


def _read(name: str, value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"{name}: {in_words(error)}", data={"param": name}) from None


def _texts(name: str, value: object) -> list[str]:
    if not (isinstance(value, list) and len(value) <= 64 and all(isinstance(each, str) for each in value)):
        raise InvalidParams(f"{name} is a list of at most 64 texts", data={"param": name})
    return value


def _lock_ids(params: Mapping[str, Any]) -> list[str]:
    one, several = params["lock_id"], params["lock_ids"]
    if (one is None) == (several is None):
        raise InvalidParams("give one of lock_id and lock_ids")
    ids = [one] if several is None else several
    if not (
        isinstance(ids, list)
        and 0 < len(ids) <= _MOST_LOCKS
        and all(isinstance(each, str) and _HEX32(each) for each in ids)
    ):
        raise InvalidParams(f"a lock_id is 32 lower-case hex characters; at most {_MOST_LOCKS} of them")
    return list(dict.fromkeys(ids))


def _locked(row: LockRow) -> dict[str, Any]:
    shown: dict[str, Any] = {**_row(row), "face_sats": row.face_sats, "ys": list(row.ys)}
    return {**shown, "token": row.token} if row.token else shown


def _row(row: LockRow) -> dict[str, Any]:
    shown: dict[str, Any] = {"lock_id": row.lock_id, "state": row.state.value}
    if row.op_id:
        shown["op_id"] = row.op_id
    if row.error:
        shown |= {"error": row.error, "reason": row.reason}
    return shown


def _seen(row: LockRow, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shown = {**_row(row), "locktime": row.locktime}
    if answers:
        shown["answers"] = list(answers)
    known = row.preimage and row.state is LockState.REDEEMED
    return {**shown, "preimage": row.preimage} if known else shown


def _condition(lock: Lock | None) -> dict[str, Any]:
    if lock is None:
        return {"kind": "plain"}
    shown: dict[str, Any] = {"kind": lock.kind.value, "keys": list(lock.keys), "refund": list(lock.refund)}
    for name in ("hash", "locktime", "n_sigs", "n_sigs_refund"):
        if (value := getattr(lock, name)) is not None:
            shown[name] = value
    return shown if lock.sigflag is None else {**shown, "sigflag": lock.sigflag.value}


def _shown(op: Op) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "op_id": op.op_id,
        "kind": op.kind.value,
        "state": op.state.value if op.state in (OpState.DONE, OpState.FAILED) else "pending",
        "mint": op.mint_url,
        "amount_sats": op.amount_sats,
        "fee_sats": op.fee_sats,
    }
    return {**shown, "error": op.error, "reason": op.reason} if op.error else shown
