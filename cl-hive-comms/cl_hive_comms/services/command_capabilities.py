"""What this node can do for an agent, what a command would cost and need
(docs/protocol/02-fleet-management.md §8 `quote`, §10 `capabilities`; 11 §15.9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.envelope import MAX_BYTES
from hive_shared.errors import HiveError, NotFound
from hive_shared.registry import actions, find, unsupported

from ..domain.compensation import COMPENSATION
from .access_fees import AccessFees
from .command_case import Case
from .compensation import Compensation
from .decision import DecisionService, Who
from .executors.action import Params
from .intake import DANGEROUS_PER_MINUTE, PER_MINUTE
from .ports_commands import CommandRows, Credentials, CredentialView, Database

IMPLEMENTATION: Final = "cl-hive-comms"
PROTOCOL: Final = 1
QUOTE_VALID_S: Final = 600


class About(msgspec.Struct, frozen=True):
    """Who this node is, for capabilities. `relays` are those it reads messages from."""

    version: str
    node_key: str
    node_id: str
    network: str
    transports: Sequence[str]
    relays: Sequence[str]
    max_skew_s: int


class CommandCapabilities:
    """Answers `capabilities` and `quote`. `served` says whether an action runs on this node now, `why_not`
    what it lacks, `partly`
    gives the rows of those of which only some parameters do."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        credentials: Credentials,
        decision: DecisionService,
        access: AccessFees,
        rewards: Compensation,
        about: Callable[[], About],
        served: Callable[[str, str], bool],
        why_not: Callable[[str, str], str],
        partly: Callable[[], Sequence[JsonValue]],
        random_bytes: Callable[[int], bytes],
        now: Callable[[], int],
    ) -> None:
        self._db, self._commands, self._credentials, self._decision = db, commands, credentials, decision
        self._about, self._served, self._random, self._now = about, served, random_bytes, now
        self._why_not = why_not
        self._partly, self._access, self._rewards = partly, access, rewards

    def of_node(self) -> dict[str, JsonValue]:
        """`hive-client-capabilities`: implementation, version, schemas, what is not served and why."""
        about = self._about()
        served = [spec for spec in actions() if spec.served and self._served(spec.schema, spec.name)]
        missing: list[JsonValue] = [
            {"schema": spec.schema, "action": spec.name, "reason": self._why_not(spec.schema, spec.name)}
            for spec in actions()
            if spec.served and not self._served(spec.schema, spec.name)
        ]
        return {
            "implementation": IMPLEMENTATION,
            "version": about.version,
            "protocol": PROTOCOL,
            "supported_schemas": [*dict.fromkeys(spec.schema for spec in served)],
            "unsupported_actions": [*unsupported(), *missing, *self._partly()],
            "transports": [*about.transports],
            "payment": {"methods": [*self._access.node_methods()], "mints": [*self._access.mints()]},
        }

    async def of_case(self, case: Case) -> dict[str, JsonValue]:
        """`capabilities` for a credential holder: the node's and its own."""
        about = self._about()
        last = await self._db.read(lambda tx: self._commands.last_nonce(tx, case.sender))
        doc = self.of_node()
        doc |= {
            "node_key": about.node_key,
            "node_id": about.node_id,
            "network": about.network,
            "relays": [*about.relays],
            "limits": {
                "max_skew_s": about.max_skew_s,
                "per_min": PER_MINUTE,
                "per_min_d5": DANGEROUS_PER_MINUTE,
                "max_bytes": MAX_BYTES,
            },
            "server_time": self._now(),
            "next_nonce": str(last + 1),
        }
        if case.view is not None:
            credential = case.view.credential
            granted: list[JsonValue] = [*sorted(n for n, given in credential.permissions.items() if given)]
            doc |= {
                "tier": credential.effective_tier.word,
                "permissions": granted,
                "constraints": dict(credential.constraints),
                "payment": self._payment(case.view),
            }
        return doc

    def _payment(self, view: CredentialView) -> dict[str, JsonValue]:
        mints = self._access.mints()
        doc: dict[str, JsonValue] = {"methods": [*self._access.methods(view)], "mints": [*mints]}
        agreed = self._rewards.agreed(view)
        return doc if agreed is None else {**doc, COMPENSATION: agreed}

    async def quote(self, case: Case, params: Params) -> dict[str, JsonValue]:
        """`quote`: price, danger, tier and workflow of a command."""
        return await self._quote(Who.of(case), str(params["schema"]), str(params["action"]), params["params"])

    async def _quote(self, who: Who, schema: str, action: str, asked: JsonValue) -> dict[str, JsonValue]:
        spec = find(schema, action)
        doc: dict[str, JsonValue] = {
            "quote_id": self._random(16).hex(),
            "price_sats": 0,
            "direction": "none",
            "methods": [],
            "valid_until": self._now() + QUOTE_VALID_S,
        }
        if spec.served:
            told = await self._decision.preview(who, schema, action, asked)
            danger = _total(told["danger"])
            price = self._access.quote(who.view, danger)
            if not price["price_sats"] and not spec.read_only:
                price = self._rewards.quote(who.view, danger) or price
            return {**doc, **price, **told}
        # Known but not run by this version: its danger can still be told.
        given: Mapping[str, JsonValue] = asked if isinstance(asked, dict) else {}
        return {
            **doc,
            "valid": False,
            "reason": "unsupported_action",
            "message": spec.unserved_reason,
            "danger": spec.danger(given).to_doc(),
            "required_tier": spec.required_tier(given).word,
        }

    async def validate(
        self, schema: str, action: str, params: JsonValue, credential_id: str = ""
    ) -> dict[str, JsonValue]:
        """`hive-schema-validate`: {valid, reason?, danger, required_tier, workflow, price_sats}; with a
        credential, what would be said to its agent. Raises NotFound for an unknown credential."""
        view = await self._credentials.current(credential_id) if credential_id else None
        if credential_id and view is None:
            raise NotFound(f"there is no credential {credential_id[:64]!a}")
        who = Who(view, "" if view is None else view.advisor_id, credential_id)
        try:
            return await self._quote(who, schema, action, params)
        except HiveError as error:
            return {"valid": False, "reason": error.symbol, "message": error.detail, **_data(error)}


def _total(danger: JsonValue) -> int:
    assert isinstance(danger, dict) and isinstance(danger["total"], int)
    return danger["total"]


def _data(error: HiveError) -> dict[str, JsonValue]:
    return {name: value for name, value in error.data.items() if name in ("param", "expected")}
