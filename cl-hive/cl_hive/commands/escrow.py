"""RPC surface: hive-escrow-* (docs/protocol/03-escrow-and-payments.md §9).

The engine behind it is imported with the first call: most nodes make no fleet tickets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from hive_shared.runtime import MethodSpec, Param

if TYPE_CHECKING:
    from cl_hive.commands.escrow_calls import EscrowCalls

Calls = Callable[[], Awaitable["EscrowCalls"]]
_TICKET: Final = Param("ticket_id", "str", required=True, maximum=64)
_KEY: Final = Param("idempotency_key", "str", required=True, minimum=1, maximum=128)
_TASK: Final = Param("task_id", "str", required=True, maximum=128)
_DANGER: Final = Param("danger_score", "int", default=1, minimum=1, maximum=10)
_ITEM: Final = Param("item", "int", default=0, minimum=0, maximum=511)
_TIMEOUT: Final = Param("timeout", "int", default=30, minimum=1, maximum=300)
_STATUSES: Final = (
    *("pending", "active", "partial", "redeemed", "refunded", "expired", "failed", "cancelled", "disputed"),
)
_TIERS: Final = ("newcomer", "recognized", "trusted", "senior")


def methods(calls: Calls) -> list[MethodSpec]:
    """The methods of this family."""

    def spec(name: str, class_: Any, params: tuple[Param, ...], what: str) -> MethodSpec:
        attribute = name.replace("-", "_")

        async def run(given: dict[str, Any]) -> dict[str, Any]:
            found: dict[str, Any] = await getattr(await calls(), attribute)(given)
            return found

        return MethodSpec(f"hive-escrow-{name}", class_, params, run, what)

    return [
        spec("create", "A", _creating(), "Make a fleet ticket: terms, lock by cl-hive-comms, hand-over."),
        spec(
            "list",
            "R",
            (
                Param("agent_id", "str", maximum=128),
                Param("status", "str", choices=_STATUSES),
                Param("limit", "int", default=100, minimum=1, maximum=500),
                Param("cursor", "str", maximum=64),
            ),
            "Fleet tickets, the newest first.",
        ),
        spec("get", "R", (_TICKET,), "One fleet ticket with its terms, items and locks."),
        spec(
            "secret",
            "A",
            (_TASK, Param("count", "int", default=1, minimum=1, maximum=512)),
            "New hashes for a task; the preimages stay here.",
        ),
        spec(
            "register",
            "A",
            (_TASK, Param("secret", "str", required=True, maximum=64)),
            "Take a preimage of your own for a task.",
        ),
        spec("complete", "A", _completing(), "Judge an item by the stored result of its task."),
        spec(
            "redeem",
            "A",
            (_TICKET, Param("preimage", "str", maximum=64), _TIMEOUT),
            "Take what a ticket pays this node.",
        ),
        spec("refund", "A", (_TICKET, _TIMEOUT), "Take back what is due of a ticket of ours."),
        spec("dispute", "A", _answering(), "Answer what an agent disputes; silence rejects after 72 hours."),
        spec("receipt", "R", (_TICKET,), "The receipts of a ticket's items."),
        spec(
            "pricing",
            "R",
            (_DANGER, Param("reputation_tier", "str", default="newcomer", choices=_TIERS)),
            "What work of a danger costs, and how long it may take.",
        ),
    ]


def _answering() -> tuple[Param, ...]:
    return (
        _TICKET,
        _ITEM,
        Param("outcome", "str", required=True, choices=("pay", "reject")),
        Param("reason", "str", required=True, minimum=1, maximum=500),
        Param("payment_id", "str", maximum=64),
    )


def _creating() -> tuple[Param, ...]:
    return (
        Param("agent_id", "str", required=True, maximum=128),
        Param("schema_id", "str", required=True, minimum=1, maximum=128),
        Param("action", "str", required=True, minimum=1, maximum=64),
        _DANGER,
        Param("amount_sats", "int", minimum=1, maximum=10_000_000),
        Param("mint_url", "str", minimum=1, maximum=512),
        Param("ticket_type", "str", default="single", choices=("single", "batch", "milestone")),
        Param("items", "json"),
        _KEY,
        Param("params_json", "json"),
        Param("task_id", "str", maximum=128),
        Param("payee_pubkey", "str", maximum=66),
        _TIMEOUT,
    )


def _completing() -> tuple[Param, ...]:
    return (
        _TICKET,
        Param("schema_id", "str", maximum=128),
        Param("action", "str", maximum=64),
        Param("params_json", "json"),
        Param("result_json", "json"),
        Param("success", "bool"),
        Param("reveal_preimage", "bool", default=True),
        _ITEM,
        Param("confirm", "bool", default=False),
    )
