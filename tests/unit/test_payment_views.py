"""hive-client-payments: what does not belong to a view is refused, not left unread (03 §9)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.commands.payments import PaymentCommands
from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import parse_params


def _never() -> Any:
    raise AssertionError("no service is asked")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"limit": 5}, "limit does not belong to action=summary"),
        ({"cursor": "1-aa"}, "cursor does not belong to action=summary"),
        ({"sub_id": "aa"}, "sub_id does not belong to action=summary"),
        ({"action": "subscriptions", "since": 0}, "since does not belong to action=subscriptions"),
        ({"action": "subscriptions", "kind": "bolt11"}, "kind does not belong to action=subscriptions"),
        ({"action": "end", "sub_id": "aa", "advisor": "doc"}, "advisor does not belong to action=end"),
        ({"action": "end", "sub_id": "aa", "limit": 1}, "limit does not belong to action=end"),
        ({"action": "end"}, "action=end needs sub_id="),
        ({"action": "close"}, "action=close needs payment_id="),
        ({"action": "close", "payment_id": "aa", "limit": 1}, "limit does not belong to action=close"),
        ({"action": "history", "note": "x"}, "note does not belong to action=history"),
        ({"action": "end", "sub_id": ""}, "sub_id must be text of 1 to 64 characters"),
    ],
)
async def test_a_view_takes_what_belongs_to_it(given: dict[str, Any], told: str) -> None:
    specs = PaymentCommands(*[_never] * 7).specs()
    spec = next(each for each in specs if each.name == "hive-client-payments")
    with pytest.raises(InvalidParams, match=told):
        await spec.handler(parse_params(spec, given))
