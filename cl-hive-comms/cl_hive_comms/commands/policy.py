"""hive-client-policy (docs/protocol/08-client-and-plugins.md §5.2, §5.4)."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param
from msgspec.structs import asdict, fields

from cl_hive_comms.domain.policy_reach import idle_keys
from cl_hive_comms.domain.policy_rules import Rule, conflicts
from cl_hive_comms.domain.policy_settings import PRESETS, QuietHours, Settings
from cl_hive_comms.services.policy_service import PolicyService

ACTIONS = (
    "get",
    "explain",
    "set-preset",
    "set",
    "override",
    "clear",
    "add-rule",
    "remove-rule",
    "protect",
    "unprotect",
    "forbid",
    "unforbid",
    "reset",
)
_SHOWS = ("get", "explain")
# Which parameters an action takes; any other is a mistake the operator should hear of.
_TAKES: Mapping[str, tuple[str, ...]] = {
    "set-preset": ("preset",),
    "set": ("overrides",),
    "override": ("overrides", "duration"),
    "add-rule": ("rule",),
    "remove-rule": ("rule_id",),
    "protect": ("channels",),
    "unprotect": ("channels",),
    "forbid": ("peers",),
    "unforbid": ("peers",),
}
_OPTIONAL = ("preset", "overrides", "duration", "rule", "rule_id", "channels", "peers")


class PolicyCommands:
    """Shows and changes the operator's policy."""

    def __init__(
        self,
        service: Callable[[], PolicyService],
        now: Callable[[], int],
        advisor_id: Callable[[str], str],
        advisor_name: Callable[[str], str],
    ) -> None:
        self._service, self._now = service, now
        self._advisor_id, self._advisor_name = advisor_id, advisor_name
        self._changes: dict[str, Callable[[dict[str, Any]], Awaitable[object]]] = {
            "set-preset": lambda given: self._service().set_preset(given["preset"]),
            "set": lambda given: self._service().set(_object(given["overrides"])),
            "override": lambda given: self._service().override(
                _object(given["overrides"]), given["duration"]
            ),
            "clear": lambda given: self._service().clear(),
            "add-rule": lambda given: self._service().add_rule(self._rule(given["rule"])),
            "remove-rule": lambda given: self._service().remove_rule(given["rule_id"]),
            "protect": lambda given: self._list("protected_channels", given["channels"], True),
            "unprotect": lambda given: self._list("protected_channels", given["channels"], False),
            "forbid": lambda given: self._list("forbidden_peers", given["peers"], True),
            "unforbid": lambda given: self._list("forbidden_peers", given["peers"], False),
            "reset": lambda given: self._service().reset(),
        }

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-policy",
                "X",
                (
                    Param("action", "str", default="get", choices=ACTIONS),
                    Param("preset", "str"),
                    Param("overrides", "json"),
                    Param("duration", "str"),
                    Param("rule", "json"),
                    Param("rule_id", "str"),
                    Param("channels", "any"),
                    Param("peers", "any"),
                ),
                self._policy,
                "What advisors may do here: get, explain, set-preset, set, override, add-rule, protect, ..",
                by=ClassBy("action", {name: "R" if name in _SHOWS else "X" for name in ACTIONS}),
            )
        ]

    async def _policy(self, params: dict[str, Any]) -> dict[str, Any]:
        action = params["action"]
        takes = _TAKES.get(action, ())
        for name in _OPTIONAL:
            if params[name] is not None and name not in takes:
                raise InvalidParams(f"{name} does not belong to action={action}")
            if params[name] is None and name in takes:
                raise InvalidParams(f"action={action} needs {name}=")
        if action in self._changes:
            await self._changes[action](params)
        return self._explained() if action == "explain" else self._shown()

    def _rule(self, doc: Any) -> Any:
        """The rule with the advisor it names as the id that commands carry: names change, and a rule about
        nobody would be no rule."""
        match = doc.get("match") if isinstance(doc, dict) else None
        if not isinstance(match, dict) or not isinstance(match.get("advisor"), str):
            return doc
        return {**doc, "match": {**match, "advisor": self._advisor_id(match["advisor"])}}

    async def _list(self, key: str, value: Any, add: bool) -> None:
        await self._service().extend_list(key, _entries(value), add=add)

    def _shown(self) -> dict[str, Any]:
        service, now = self._service(), self._now()
        snapshot = service.snapshot()
        override = snapshot.active_override(now)
        settings = snapshot.settings(now)
        result: dict[str, Any] = {
            "preset": snapshot.preset,
            "version": snapshot.version,
            "source": service.source,
            "document": snapshot.document.to_doc(),
            "effective": _shown_settings(settings),
            "rules": [self._shown_rule(rule) for rule in _rules(service)],
            "override": None,
            "conflicts": [conflict.sentence for conflict in conflicts(_rules(service), settings)],
        }
        if override is not None:
            result["override"] = {"values": dict(override.values), "expires_at": override.expires_at}
        if snapshot.locked is not None:
            result["locked"] = snapshot.locked
        if dids := sorted(name for name in settings.approvers if name.startswith("did:")):
            result["warning_approvers"] = (
                f"votes of {', '.join(dids)} cannot be checked here and do not count; use Nostr keys"
            )
        if idle := idle_keys(snapshot.document.overrides):
            result["warning_keys"] = (
                f"{', '.join(idle)}: kept, but bears on nothing that this version runs"
                " (docs/reference/policy.md)"
            )
        if service.file_problem is not None:
            result["warning_policy_file"] = service.file_problem
        return result

    def _shown_rule(self, rule: Rule) -> dict[str, Any]:
        shown: dict[str, Any] = {**rule.to_doc(), "source": rule.source}
        if rule.match.advisor is not None:
            shown["advisor_name"] = self._advisor_name(rule.match.advisor)
        return shown

    def _explained(self) -> dict[str, Any]:
        service, now = self._service(), self._now()
        snapshot = service.snapshot()
        override = snapshot.active_override(now)
        base, effective = PRESETS[snapshot.preset], _shown_settings(snapshot.settings(now))
        timed = set() if override is None else set(_keys(override.values))
        own = set(_keys(snapshot.document.overrides))
        sources = {
            name: {
                "value": value,
                "source": "override" if name in timed else (service.source if name in own else "preset"),
                "preset_value": _shown_settings(base)[name],
            }
            for name, value in effective.items()
        }
        return {**self._shown(), "sources": sources}


def _rules(service: PolicyService) -> tuple[Rule, ...]:
    snapshot = service.snapshot()
    return (*snapshot.rules, *snapshot.sibling_rules)


def _keys(values: Mapping[str, Any]) -> list[str]:
    """Names of settings that document keys stand for."""
    names = []
    for key, value in values.items():
        names += list(value) if key == "time_restrictions" and isinstance(value, dict) else [key]
    return names


def _shown_settings(settings: Settings) -> dict[str, Any]:
    return {each.name: _plain(getattr(settings, each.name)) for each in fields(settings)}


def _plain(value: Any) -> Any:
    if isinstance(value, QuietHours):
        return value.to_doc()
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, msgspec.Struct):
        return asdict(value)
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidParams("overrides must be a JSON object of policy keys")
    return value


def _entries(value: Any) -> list[str]:
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise InvalidParams("give a comma separated text or a JSON list")
    return [entry.strip() for entry in entries if entry.strip()]
