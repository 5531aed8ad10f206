"""What the role advisor's reading tools answer (docs/protocol/11-advisor-kit.md §11.1). Texts that are not
ours are left unmarked, so that they end beside the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hive_shared import registry
from hive_shared.errors import InvalidParams, NotFound, Unsupported
from hive_shared.registry import ActionSpec

from hive_advisor.domain import schema_help
from hive_advisor.domain.advisor_tools import ADVISOR_TOOLS, CONTROL
from hive_advisor.domain.answer import read_answer
from hive_advisor.domain.approval_request import ApprovalRequest
from hive_advisor.domain.cleaning import Own
from hive_advisor.domain.command_machine import FINAL
from hive_advisor.domain.question import PLAN, Question
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.domain.tool_output import Outside, own
from hive_advisor.services.advisor_kit import AdvisorKit
from hive_advisor.services.advisor_tools import Made, Said

READ_S: Final = 25
_FOUND: Final = 40
Given = Mapping[str, Any]


class AdvisorReads:
    """Reads of the kit's own store, and reads asked of a client's node."""

    def __init__(self, kit: AdvisorKit) -> None:
        self._kit = kit

    @property
    def made(self) -> Mapping[str, Made]:
        """One function per tool."""
        return {
            "adv_status": self._status,
            "adv_clients": self._clients,
            "adv_client": self._client,
            "adv_schemas": self._schemas,
            "adv_schema": self._schema,
            "adv_read": self._read,
            "adv_commands": self._commands,
            "adv_command": self._command,
            "adv_wait": self._wait,
            "adv_receipts": self._receipts,
            "adv_verify": self._verify,
            "adv_telemetry": self._telemetry,
            "adv_trend": self._trend,
            "adv_velocity": self._velocity,
            "adv_journal": self._journal,
            "adv_alerts": self._alerts,
            "adv_balances": self._balances,
            "adv_events": self._events,
            "adv_approvals": self._approvals,
            "adv_tools_search": self._search,
        }

    async def _status(self, given: Given) -> Said:
        brief = await self._kit.brief()
        rows = [{"client": alias, "state": state} for alias, state in brief.pop("clients").items()]
        brief["waits_for_the_human"] = brief.pop("waiting_for_you")
        return Said(_aliased({**brief, "clients": rows, "halted": self._kit.guard.halted}))

    async def _clients(self, given: Given) -> Said:
        items = [_client_row(client) for client in await self._kit.clients.all()]
        return Said({"items": items, "count": len(items)})

    async def _client(self, given: Given) -> Said:
        client = await self._kit.clients.named(given["client"])
        credentials = [
            {
                "credential_id": item.credential_id,
                "state": item.state,
                "tier": item.document.get("tier"),
                "schemas": item.document.get("allowed_schemas"),
                "constraints": item.document.get("constraints"),
                "valid_until": item.valid_until,
            }
            for item in await self._kit.clients.credentials(client)
        ]
        served = client.capabilities or {}
        data = {
            **_client_row(client),
            "why": client.suspect_why,
            "name_by_node": client.remote_name,
            "credentials": credentials,
            "capabilities_at": client.capabilities_at,
            "serves": served.get("schemas"),
            "limits": served.get("limits"),
        }
        return Said(_from(client, data))

    async def _schemas(self, given: Given) -> Said:
        words = str(given["words"] or "").split()
        found = [
            {"name": schema_help.name_of(spec), **schema_help.row_of(spec)}
            for spec in (schema_help.search(words) if words else registry.actions())
            if (spec.served or not given["served"]) and spec.schema != CONTROL
        ]
        short = ("name", "tier", "danger", "danger_max", "changes")
        items = [{name: row[name] for name in short} for row in found[: given["limit"]]]
        return Said({"total": len(found), "items": own(items)})

    async def _schema(self, given: Given) -> Said:
        return Said(own(schema_help.whole_of(found_action(given["action"]))))

    async def _read(self, given: Given) -> Said:
        spec = found_action(given["action"])
        if not spec.read_only or spec.schema == CONTROL:
            raise InvalidParams(f"{spec.name} is no read: plan it with adv_plan", data={"param": "action"})
        client = await self._kit.clients.named(given["client"])
        plan = await self._kit.plan(client, spec.schema, spec.name, params_of(given))
        return await self.shown(await self._kit.execute(plan, wait_s=READ_S, origin="mcp"))

    async def _commands(self, given: Given) -> Said:
        name = given["client"]
        client = None if name is None else await self._kit.clients.named(name)
        rows = await self._kit.commands.listed(client, given["state"], given["limit"])
        items = [
            {
                "command_id": row.command_id,
                "client": Own(await self._kit.alias_of(row.client_id)),
                "action": Own(f"{row.schema}#{row.action}"),
                "state": Own(row.state),
                "slug": row.slug,
                "danger": row.total_danger,
                "created": row.created,
            }
            for row in rows
        ]
        return Said({"items": items, "count": len(items)})

    async def _command(self, given: Given) -> Said:
        return await self.shown(await self._kit.commands.get(given["command_id"]))

    async def _wait(self, given: Given) -> Said:
        command = await self._kit.commands.get(given["command_id"])
        return await self.shown(await self._kit.commands.settled(command.command_id, given["seconds"]))

    async def shown(self, command: StoredCommand) -> Said:
        """A command: where it stands, and what its node said."""
        alias = await self._kit.alias_of(command.client_id)
        answer = read_answer(command.response) if command.response else None
        data: dict[str, Any] = {
            "command_id": command.command_id,
            "client": Own(alias),
            "action": Own(f"{command.schema}#{command.action}"),
            "params": command.params,
            "note": command.note,
            "state": Own(command.state),
            "final": command.state in FINAL,
            "slug": command.slug,
            "danger": command.total_danger,
            "receipt_id": command.receipt_id,
            "created": command.created,
        }
        if answer is not None:
            data |= {"message": answer.sentence, "result": answer.result}
        shown = {key: value for key, value in data.items() if value not in (None, "")}
        source, as_of = (alias, answer.timestamp) if answer is not None else ("this advisor", None)
        return Said(Outside(f"client {alias}", shown), source, as_of, plan=command.command_id)

    async def _receipts(self, given: Given) -> Said:
        client = await self._kit.clients.named(given["client"])
        rows = await self._kit.receipts.listed(client, given["since"], given["limit"])
        items = [
            {
                "receipt_id": row.receipt_id,
                "mine": row.mine,
                "schema": row.document.get("schema"),
                "action": row.document.get("action"),
                "status": row.document.get("status"),
                "time": row.document.get("time"),
                "level": Own(row.level),
                "hash": row.hash,
            }
            for row in rows
        ]
        more = {"next_since": rows[-1].receipt_id} if len(rows) == given["limit"] else {}
        return Said(_from(client, {"items": items, "count": len(items), "head": client.head_id, **more}))

    async def _verify(self, given: Given) -> Said:
        client = await self._kit.clients.named(given["client"])
        report = await self._kit.receipts.verify(client)
        return Said({**report, "client": Own(client.alias), "reason": own(report.get("reason"))})

    async def _telemetry(self, given: Given) -> Said:
        client = await self._kit.clients.named(given["client"])
        figures = await self._kit.telemetry.figures(client, given["metric"], given["since"], given["limit"])
        items = [
            {"at": each.ts, "metric": Own(each.metric), "value": each.value, "seq": each.seq}
            for each in figures
        ]
        running = [
            {"sub_id": row.sub_id, "metrics": own(row.metrics), "until": row.until}
            for row in await self._kit.telemetry.followed(client)
        ]
        return Said(_from(client, {"running": running, "items": items, "count": len(items)}))

    async def _trend(self, given: Given) -> Said:
        client = await self._kit.clients.named(given["client"])
        return Said({"client": Own(client.alias), "trends": own(await self._kit.journal.trends(client))})

    async def _velocity(self, given: Given) -> Said:
        client = await self._kit.clients.named(given["client"])
        found = await self._kit.journal.velocities(client)
        items = [
            {
                "channel": each.channel,
                "channel_id": each.channel_id,
                "msat_per_hour": each.msat_per_hour,
                "towards": Own(each.towards),
                "minutes": each.minutes,
                "level": Own(each.level),
                "samples": each.samples,
            }
            for each in found[: given["limit"]]
        ]
        return Said(_from(client, {"total": len(found), "items": items}))

    async def _journal(self, given: Given) -> Said:
        name = given["client"]
        client = None if name is None else await self._kit.clients.named(name)
        items = [
            {
                "decision_id": each.decision_id,
                "client": Own(await self._kit.alias_of(each.client_id)),
                "kind": Own(each.kind),
                "target": each.target,
                "reasoning": each.reasoning,
                "predicted": each.predicted,
                "confidence": each.confidence,
                "command_id": each.command_id,
                "created": each.created,
                "outcome": None if each.outcome is None else Own(each.outcome),
                "measured": each.measured,
            }
            for each in await self._kit.journal.decisions(client, given["open"], given["limit"])
        ]
        return Said({"items": items, "count": len(items)})

    async def _alerts(self, given: Given) -> Said:
        items = []
        for each in await self._kit.alerts.listed(closed=given["closed"], limit=given["limit"]):
            alias = await self._kit.alias_of(each.client_id)
            row = {
                "alert": each.number,
                "client": Own(alias),
                "from": Own(each.origin),
                "level": each.level,
                "code": each.code,
                "text": each.text,
                "subject": each.subject,
                "state": Own(each.state),
                "at": each.at,
            }
            items.append(Outside(f"client {alias}", row))
        return Said({"items": items, "count": len(items)})

    async def _balances(self, given: Given) -> Said:
        rows = await self._kit.ecash.balances()
        items = [{**row, "mint": Own(row["mint"])} for row in rows]
        return Said({"free_sats": sum(row["free_sats"] for row in rows), "items": items, "count": len(items)})

    async def _events(self, given: Given) -> Said:
        rows = await self._kit.past_events(given["since"], given["limit"])
        items = [
            {"cursor": row.cursor, "at": row.at, "kind": Own(row.kind), "ref": row.ref, "text": row.text}
            for row in rows
        ]
        more = {"next_since": rows[-1].cursor} if rows else {}
        return Said({"items": items, "count": len(items), **more})

    async def _approvals(self, given: Given) -> Said:
        own_rows = [
            await self._question(row) for row in await self._kit.questions.listed(expired=False, limit=100)
        ]
        votes = [await self._vote(row) for row in await self._kit.approvals.listed(expired=False, limit=100)]
        return Said({"items": [*own_rows, *votes], "count": len(own_rows) + len(votes)})

    async def _question(self, row: Question) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "approval_id": row.approval_id,
            "kind": Own(row.kind),
            "state": Own(row.state),
            "expires": row.expires,
            "reason": row.reason,
        }
        if row.kind != PLAN or row.command_id is None:
            return {**shown, "object": row.object}
        command = await self._kit.commands.get(row.command_id)
        return {
            **shown,
            "plan_id": command.command_id,
            "client": Own(await self._kit.alias_of(command.client_id)),
            "action": Own(f"{command.schema}#{command.action}"),
            "danger": command.total_danger,
        }

    async def _vote(self, row: ApprovalRequest) -> dict[str, Any]:
        name, _ = await self._kit.approvals.node_of(row)
        return {
            "approval_id": row.approval_id,
            "kind": Own("vote"),
            "state": Own(row.state),
            "expires": row.expires,
            "node": Own(name),
            "action": Own(f"{row.schema}#{row.action}"),
            "danger": row.danger,
        }

    async def _search(self, given: Given) -> Said:
        words = str(given["words"]).lower().replace("-", "_").split()
        tools = [
            {"tool": name, "class": tool.klass, "description": tool.description}
            for name, tool in ADVISOR_TOOLS.items()
            if words and all(word in f"{name} {tool.description}".lower() for word in words)
        ]
        found = schema_help.search(words) if words else []
        actions = [{"name": schema_help.name_of(spec), **schema_help.row_of(spec)} for spec in found]
        return Said(own({"tools": tools, "actions": actions[:_FOUND]}))


def found_action(target: str) -> ActionSpec:
    """The action of that name. Raises InvalidParams, NotFound."""
    schema_id, action = schema_help.split_target(target.replace("#", "/"))
    try:
        return registry.find(schema_id, action)
    except Unsupported as error:
        raise NotFound(f"{error.detail}; adv_schemas finds what there is", reason=error.symbol) from error


def params_of(given: Given) -> Mapping[str, Any]:
    """The parameters of the action. Raises InvalidParams when they are no object."""
    params = given["params"]
    if params is not None and not isinstance(params, dict):
        raise InvalidParams("params must be an object", data={"param": "params"})
    return params or {}


def _from(client: Client, data: Mapping[str, Any]) -> Outside:
    return Outside(f"client {client.alias}", data)


def _aliased(value: Any) -> Any:
    """The same with what stands under ``client``, our aliases, marked as ours."""
    if isinstance(value, Mapping):
        return {
            name: Own(item) if name == "client" and isinstance(item, str) else _aliased(item)
            for name, item in value.items()
        }
    return [_aliased(item) for item in value] if isinstance(value, list) else value


def _client_row(client: Client) -> dict[str, Any]:
    return {
        "client": Own(client.alias),
        "state": Own(client.state),
        "network": client.network,
        "node_id": client.node_id,
        "receipts": client.head_id,
        "since": client.created,
    }
