"""hive-client-wallet (docs/protocol/03-escrow-and-payments.md §9).

A token stands in the answer of `send` alone, and only the caller's own call returns it again.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from hive_shared.cashu.curve import is_point
from hive_shared.cashu.journal import Op, OpState
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.probe_service import ProbeService
from hive_shared.cashu.seed_restore import SeedRestore
from hive_shared.cashu.terms import Terms, decode_terms
from hive_shared.cashu.wallet import MAX_AMOUNT_SAT
from hive_shared.cashu.wallet_service import CALL, WalletService, chosen_mint
from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms.commands.mints import shown_mints
from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.services.lock_restore import LockRestore

_TAKES: Final[Mapping[str, frozenset[str]]] = {
    "balance": frozenset(),
    "mints": frozenset(),
    "fund": frozenset({"amount_sats", "mint", "timeout", "idempotency_key"}),
    "withdraw": frozenset({"amount_sats", "mint", "destination", "timeout", "idempotency_key"}),
    "send": frozenset({"amount_sats", "mint", "to_pubkey", "timeout", "idempotency_key"}),
    "receive": frozenset({"token", "timeout"}),
    "restore": frozenset({"mint", "dry_run", "terms"}),
    "ops": frozenset({"state", "cursor", "limit"}),
    "probe": frozenset({"mint", "timeout"}),
}
"""Which parameters belong to which action."""
_READS: Final = frozenset({"balance", "mints", "ops"})
_STATES: Final = tuple(state.value for state in OpState)
_DEFAULT_TIMEOUT_S: Final = 30
_MOST_TERMS: Final = 50


class WalletCommands:
    """The wallet, for the operator."""

    def __init__(
        self,
        service: Callable[[], WalletService],
        restore: Callable[[], SeedRestore],
        locks: Callable[[], LockRestore],
        probes: Callable[[], ProbeService],
        book: Callable[[], MintBookService],
        now: Callable[[], int],
    ) -> None:
        self._service, self._restore, self._locks, self._probes = service, restore, locks, probes
        self._book, self._now = book, now

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-wallet",
                "X",
                (
                    Param("action", "str", default="balance", choices=tuple(_TAKES)),
                    Param("amount_sats", "int", minimum=1, maximum=MAX_AMOUNT_SAT),
                    Param("mint", "str", minimum=1, maximum=1_024),
                    Param("token", "str", maximum=262_144),
                    Param("to_pubkey", "str", maximum=66),
                    Param("destination", "str", choices=("own",)),
                    Param("state", "str", choices=_STATES),
                    Param("dry_run", "bool"),
                    Param("terms", "json"),
                    Param("cursor", "str", maximum=64),
                    Param("limit", "int", minimum=1, maximum=500),
                    Param("timeout", "int", minimum=1, maximum=300),
                    Param("idempotency_key", "str", minimum=1, maximum=128),
                    FORMAT,
                ),
                self._wallet,
                "Ecash at the mints you named: balance, mints (how they are), fund (from Lightning), withdraw"
                " (to this node), send, receive, restore (from the node's seed), probe (try out a mint), ops"
                " (what is under way).",
                by=ClassBy("action", {name: "R" if name in _READS else "X" for name in _TAKES}),
            )
        ]

    async def _wallet(self, params: dict[str, Any]) -> dict[str, Any]:
        result = await self._run(str(params["action"]), params)
        return as_text(result) if params["format"] == "text" else result

    async def _run(self, action: str, params: dict[str, Any]) -> dict[str, Any]:
        for name, value in params.items():
            if value is not None and name not in ("action", "format") and name not in _TAKES[action]:
                raise InvalidParams(f"{name} does not belong to action={action}", data={"param": name})
        match action:
            case "balance":
                return await self._balance()
            case "mints":
                return shown_mints(self._book(), self._now())
            case "ops":
                return await self._ops(params)
            case "restore":
                dry_run = params["dry_run"] is not False
                terms = _terms(params["terms"])
                found = await self._restore().run(params["mint"], dry_run=dry_run)
                locked = await self._locks().run(found["mint"], terms, dry_run=dry_run)
                return {"dry_run": dry_run, **found, "locked": locked}
            case "probe":
                return await self._probe(params)
            case "receive":
                return _shown(await self._service().receive(_needed(params, "token"), _timeout(params)))
        return await self._move(action, params)

    async def _move(self, action: str, params: dict[str, Any]) -> dict[str, Any]:
        service, amount_sat = self._service(), _needed(params, "amount_sats")
        mint, key, timeout = params["mint"], params["idempotency_key"], _timeout(params)
        if action == "fund":
            return _shown(await service.fund(amount_sat, mint, key, timeout))
        if action == "withdraw":
            return _shown(await service.withdraw(amount_sat, mint, key, timeout))
        pubkey = params["to_pubkey"]
        if pubkey is not None and not is_point(pubkey):
            raise InvalidParams("to_pubkey is a compressed public key: 66 lower-case hex, 02 or 03 first")
        op = await service.send(amount_sat, mint, pubkey, key, timeout)
        return {**_shown(op), "token": op.body.token} if op.state is OpState.DONE else _shown(op)

    async def _probe(self, params: dict[str, Any]) -> dict[str, Any]:
        url = chosen_mint(self._book(), params["mint"])
        state = await self._probes().probe(url, _timeout(params))
        if state.result is None:
            note = "hive-client-wallet action=mints shows what comes of it"
            return {"mint": state.mint_url, "state": "pending", "note": note}
        row = self._book().row(state.mint_url)
        assert row is not None  # it was just probed
        return {
            "mint": row.url,
            "state": "done",
            "status": row.status.value,
            "version": row.probed_version,
            "caps": msgspec.to_builtins(state.result.caps),
            "cost_sats": state.result.cost_sats,
            "detail": row.last_error,
        }

    async def _balance(self) -> dict[str, Any]:
        held = await self._service().balance()
        return {
            "total_sats": sum(row["unspent"] for row in held.values()),
            "mints": [
                {
                    "mint": url,
                    "free_sats": row["unspent"],
                    "held_sats": row["pending"],
                    "quarantined_sats": row["quarantined"],
                    "proofs": row["proofs"],
                }
                for url, row in held.items()
            ],
            "receive_pubkey": self._service().receive_pubkey,
        }

    async def _ops(self, params: dict[str, Any]) -> dict[str, Any]:
        limit = params["limit"] or 100
        before = None if params["cursor"] is None else _position(params["cursor"])
        ops = await self._service().ops(params["state"], before, limit)
        page: dict[str, Any] = {"count": len(ops), "items": [_row(op) for op in ops]}
        if len(ops) == limit:
            page["next_cursor"] = f"{ops[-1].created_at}-{ops[-1].op_id}"
        return page


def _needed(params: Mapping[str, Any], name: str) -> Any:
    if params[name] is None:
        raise InvalidParams(f"action={params['action']} needs {name}=", data={"param": name})
    return params[name]


def _terms(value: Any) -> list[Terms]:
    documents = [] if value is None else value if isinstance(value, list) else [value]
    if len(documents) > _MOST_TERMS or not all(isinstance(each, dict) for each in documents):
        raise InvalidParams(
            f"terms is the terms of a ticket, or a list of at most {_MOST_TERMS}", data={"param": "terms"}
        )
    return [decode_terms(each) for each in documents]


def _timeout(params: Mapping[str, Any]) -> int:
    return int(params["timeout"] or _DEFAULT_TIMEOUT_S)


def _position(cursor: str) -> tuple[int, str]:
    at, _, op_id = cursor.partition("-")
    if not (at.isascii() and at.isdigit() and len(at) <= 15):
        raise InvalidParams("cursor is what next_cursor of the page before said")
    return int(at), op_id


def _shown(op: Op) -> dict[str, Any]:
    shown = {
        "op_id": op.op_id,
        "state": "done" if op.state is OpState.DONE else "pending",
        "mint": op.mint_url,
        "amount_sats": op.amount_sats,
        "fee_sats": op.fee_sats,
    }
    if op.state is OpState.DONE:
        return shown
    shown |= _key(op)
    return {**shown, "note": op.error} if op.error else shown


def _key(op: Op) -> dict[str, Any]:
    """What the same call names to have this operation's result."""
    key = op.idempotency_key
    return {"idempotency_key": key.removeprefix(CALL)} if key.startswith(CALL) else {}


def _row(op: Op) -> dict[str, Any]:
    row = {
        "op_id": op.op_id,
        "kind": op.kind.value,
        "state": op.state.value,
        "mint": op.mint_url,
        "amount_sats": op.amount_sats,
        "fee_sats": op.fee_sats,
        "attempts": op.attempts,
        "created_at": op.created_at,
        "updated_at": op.updated_at,
        **_key(op),
    }
    if op.next_retry_at:
        row["next_retry_at"] = op.next_retry_at
    return {**row, "error": op.error, "reason": op.reason} if op.error else row
