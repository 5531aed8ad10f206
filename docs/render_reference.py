"""Writes docs/reference: every method of the three plugins, every key of the policy and every action of the
management schemas, every tool of the kit's MCP server, from the code; and the methods once more as the table
that the advisor kit ships.

Run `make reference` after changing a method, policy key, action or tool; a test compares the pages with the
code.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, fields

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference"
TABLE = ROOT / "shared" / "hive_advisor" / "methods.json"
PLUGINS = {"cl-hive-comms": "cl_hive_comms", "cl-hive-archon": "cl_hive_archon", "cl-hive": "cl_hive"}

_METHODS = """# Methods

Written by `make reference` from what the plugins declare: edit that, not this page.

Parameters are given as `name=value` (`lightning-cli -k`) or by position in the order shown. One that is
unknown, missing, repeated or out of bounds is refused with its name, and nothing happens. What the methods
answer and which errors they raise: [the specification](../protocol/08-client-and-plugins.md), section 4.

| class | who may call | |
|---|---|---|
| R | whoever has RPC access | reads |
| A | whoever has RPC access | acts |
| X | the operator, never by a rune or a tool of an AI | changes who may do what, or what cannot be undone |
| S | another hive plugin of this node | every call also carries `nonce`, `ts` and `auth`, checked before \
the other parameters |
| remote | an advisor, through clnrest | authenticated by the signature inside the envelope |
"""

_RUNE = """## A rune that only reads

For a monitor, or an assistant that may look but not touch: every call of class R of the three plugins and
nothing else. Where the class depends on a parameter, that parameter must be sent, and by name (`action=get`):
without it, or by position, the rune is refused.

```
lightning-cli createrune restrictions='[ROWS]'
```
"""

_FORBIDDEN = (
    "They come with the preset. `approval_overrides` opens one that it names in full as `multi_sig_N_of_M`"
    " (docs/decisions/0364); what is never run on remote request stays closed."
)

_POLICY = """# Policy keys

Written by `make reference` from what the plugin reads: edit that, not this page.

The document is `{"policy_version": 1, "preset": "moderate", "overrides": {...}}`. The keys below stand under
`overrides`; a dot means an object inside (`{"rate_limits": {"fee_changes_per_hour": 5}}`). A key that is not
given has the preset's value. An unknown key, or a value outside its range, refuses the whole document and the
policy in force stays; when the plugin starts with such a document, advisors can only monitor until it is
repaired. "None" is no limit, or an empty list.

The last column names the actions that a key bears on. Of actions that are "not served by this version" it
decides nothing: every command for them is refused anyway.

How a decision comes about, and the floors that no key lifts:
[the specification](../protocol/08-client-and-plugins.md), section 5.4.
How to change it: [operator guide](../operator-guide.md).
"""


_ACTIONS = """# Actions

Written by `make reference` from the registry that node and advisor share: edit that, not this page.

What an advisor may ask a node for, by schema. Danger is the largest of five dimensions (reversibility,
finance, time, blast radius, recovery). Where it depends on the parameters or on what the node knows, the
least and the largest are shown, and a quote tells what it is for given parameters. The tier is what the
least danger takes; more danger takes a higher one. An unknown, missing or repeated parameter, or one outside
its range, is refused by name, and nothing happens.

What each does at the node and what it answers: [the specification](../protocol/02-fleet-management.md),
section 4. How a policy bounds them: [policy keys](policy.md).
How to add one: [three files](../how-to-add-an-action.md).
"""


_TOOLS = """# Tools of the MCP server

Written by `make reference` from what the advisor kit declares: edit that, not this page.

`hive-advisor mcp serve --role advisor` works for an advisor's clients, `--role operator` reads an operator's
own nodes. R reads; A acts, and is open only where the human listed its exact name (`hive-advisor mcp allow`).
An unknown, missing or misplaced argument is refused by name, and nothing happens. How to set it up:
[advisor guide](../advisor-guide.md#an-ai-that-advises-mcp),
[operator guide](../operator-guide.md#an-ai-on-your-own-node-mcp).
"""

_OPERATOR_TOOLS = """## Own nodes

Besides these, every method of [the plugins](methods.md) that reads, and those that act and were listed, as
`hive_x_y` for `hive-x-y`: shown where `--toolsets` has their set, called by `hive_call` where not. All
take `node`, which may be left out where nodes.toml names one node, and for figures of the whole fleet.
"""


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "methods.md": methods_page(),
        "policy.md": policy_page(),
        "actions.md": actions_page(),
        "tools.md": tools_page(),
    }


def tools_page() -> str:
    """The tools of both roles."""
    advisor = importlib.import_module("hive_advisor.domain.advisor_tools")
    sets = importlib.import_module("hive_advisor.domain.node_tool_sets")
    figures = importlib.import_module("hive_advisor.domain.figure_tools").FIGURE_TOOLS
    reads = importlib.import_module("hive_advisor.domain.node_reads").NODE_READS
    parts = [_TOOLS, "## Clients\n"]
    parts += [
        _tool(each.name, each.klass, each.description, each.params) for each in advisor.ADVISOR_TOOLS.values()
    ]
    closed = ", ".join(f"`{name}`" for name in sorted(advisor.HUMANS_OWN))
    parts += [f"No list opens {closed}: they are the human's.\n", _OPERATOR_TOOLS]
    parts += [_tool(each.name, "R", each.description, each.params) for each in figures.values()]
    parts += [_tool(each.tool, "R", each.spec.description, each.spec.params) for each in reads.values()]
    for name, tool in sets.own_tools(()).items():
        if name not in figures:
            parts.append(_tool(name, "R", tool.description, sets.PARAMS[name]))
    return "\n".join(parts)


def _tool(name: str, klass: str, description: str, params: Sequence[Any]) -> str:
    lines = [f"### {name}", "", f"{klass}. {description}", ""]
    if params:
        lines += ["| argument | type | default |", "|---|---|---|"]
        lines += [f"| `{param.name}` | {_type(param)} | {_default(param)} |" for param in params]
        lines.append("")
    return "\n".join(lines)


def actions_page() -> str:
    """The actions of each schema in the order of the sheet."""
    registry = importlib.import_module("hive_shared.registry")
    parts = [_ACTIONS]
    for schema, described in registry.export()["schemas"].items():
        parts += [f"## {schema}", ""]
        for name, doc in described["actions"].items():
            parts += [_action(name, doc), ""]
    return "\n".join(parts)


def _action(name: str, doc: Any) -> str:
    aliases = "".join(f" (`{alias}`)" for alias in doc.get("aliases", ()))
    if not doc["served"]:
        return f"- **{name}**{aliases}: not served: {doc['reason']}."
    least, most = doc["danger"]["total"], doc["danger_max"]
    danger = f"danger {least}" if least == most else f"danger {least} to {most}"
    tier = doc["required_tier"]
    if "standard_with_constraint" in doc:
        tier += f" (standard with `{doc['standard_with_constraint']}`)"
    kind = "reads" if doc["read_only"] else "writes"
    lines = [f"- **{name}**{aliases}: {kind}, {danger}, tier {tier}."]
    if "amounts_to" in doc:
        lines.append(
            f"  - denied wherever one of these is: {', '.join(f'`{each}`' for each in doc['amounts_to'])}"
        )
    shape = doc["params"]
    lines += [
        f"  - {_parameter(key, rule, required=key in shape['required'])}"
        for key, rule in shape["properties"].items()
    ]
    for word, words in _GROUPS.items():
        if word in shape:
            lines.append(f"  - {words} {', '.join(f'`{key}`' for key in shape[word])}")
    if "values" in shape:
        each = (f"`{key}` {_meaning(rule)}" for key, rule in shape["values"].items())
        lines.append(f"  - values: {'; '.join(each)}")
    return "\n".join(lines)


_GROUPS = {
    "at_least_one": "at least one of",
    "exactly_one": "exactly one of",
    "exclusive": "at most one of",
}


def _parameter(name: str, rule: Any, *, required: bool) -> str:
    also = "".join(f" (`{alias}`)" for alias in rule.get("aliases", ()))
    default = f", default `{json.dumps(rule['default'])}`" if "default" in rule else ""
    return f"`{name}`{also}: {_meaning(rule)}{', required' if required else default}"


def methods_page() -> str:
    """The methods of each plugin, by name."""
    declared = {plugin: _specs(package) for plugin, package in PLUGINS.items()}
    parts = [_METHODS, _reading_rune([spec for specs in declared.values() for spec in specs])]
    for plugin, specs in declared.items():
        parts.append(f"## {plugin}\n")
        parts += [_method(spec) for spec in sorted(specs, key=lambda spec: str(spec.name))]
    return "\n".join(parts)


def _method(spec: Any) -> str:
    lines = [f"### {spec.name}", "", f"{_class(spec)} {spec.description}", ""]
    if spec.params:
        lines += ["| parameter | type | default |", "|---|---|---|"]
        lines += [f"| `{param.name}` | {_type(param)} | {_default(param)} |" for param in spec.params]
    else:
        lines.append("No parameters.")
    return "\n".join([*lines, ""])


def _class(spec: Any) -> str:
    if spec.by is None:
        return f"Class {spec.klass}."
    parts = []
    for klass in ("R", "A", "X"):
        values = " ".join(f"`{value}`" for value in spec.by.values(klass))
        parts += [f"{klass} with {values}"] if values else []
    return f"Class by `{spec.by.param}`: {'; '.join(parts)}."


def _reading_rune(specs: Sequence[Any]) -> str:
    template = importlib.import_module("hive_shared.rune_template")
    rows = ",\n ".join(json.dumps(row) for row in template.restrictions(specs))
    return _RUNE.replace("ROWS", rows)


def method_table() -> str:
    """Every method with its class and parameters, one line each, as the kit reads it
    (docs/protocol/11-advisor-kit.md §11.3)."""
    rows = [
        json.dumps(_row(plugin, spec))
        for plugin, package in PLUGINS.items()
        for spec in sorted(_specs(package), key=lambda spec: str(spec.name))
    ]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _row(plugin: str, spec: Any) -> dict[str, Any]:
    row = {"name": spec.name, "plugin": plugin, "klass": spec.klass, "description": spec.description}
    row["params"] = [
        {
            field.name: getattr(param, field.name)
            for field in fields(param)
            if field.name == "default" or not _nothing(getattr(param, field.name))
        }
        for param in spec.params
    ]
    if spec.by is not None:
        row["by"] = asdict(spec.by)
    return row


def _nothing(value: object) -> bool:
    # Not by equality: a minimum of 0 says something.
    return value is None or value is False or value == ()


def _type(param: Any) -> str:
    if param.choices:
        return " ".join(f"`{choice}`" for choice in param.choices)
    # For a text the bounds are its length.
    unit = " characters" if param.kind == "str" else ""
    if param.minimum is not None and param.maximum is not None:
        return f"{param.kind}, {param.minimum} to {param.maximum}{unit}"
    if param.minimum is not None:
        return f"{param.kind}, at least {param.minimum}{unit}"
    if param.maximum is not None:
        return f"{param.kind}, at most {param.maximum}{unit}"
    return str(param.kind)


def _default(param: Any) -> str:
    if param.required:
        return "required"
    return "" if param.default is None else f"`{json.dumps(param.default)}`"


def _specs(package: str) -> Sequence[Any]:
    if package == "cl_hive_comms":
        comms = importlib.import_module("cl_hive_comms.plugin.app").Comms
        specs: Sequence[Any] = comms.methods(comms.__new__(comms))
        return specs
    # Handlers are only declared here, never called.
    status = importlib.import_module(f"{package}.commands.status")
    if package == "cl_hive_archon":
        specs = status.methods(None, None)
    else:
        escrow = importlib.import_module("cl_hive.commands.escrow")
        specs = [*status.methods(None, None, None), *escrow.methods(None)]
    return specs


def policy_page() -> str:
    """The keys of the policy with the value of each preset."""
    document = importlib.import_module("cl_hive_comms.domain.policy_document")
    presets = importlib.import_module("cl_hive_comms.domain.policy_settings").PRESETS
    lines = [_POLICY, f"| key | value | {' | '.join(presets)} | enforced with |"]
    lines.append("|---" * (3 + len(presets)) + "|")
    for key, kind in document.KEYS.items():
        for name, meaning in _flat(key, kind.describe()):
            values = " | ".join(_value(settings, name) for settings in presets.values())
            lines.append(f"| `{name}` | {meaning} | {values} | {_enforced(name)} |")
    lines += ["", "## Actions a preset forbids", "", _FORBIDDEN, ""]
    lines += [
        f"- {name}: {', '.join(f'`{action}`' for action in settings.forbidden_actions)}"
        for name, settings in presets.items()
    ]
    return "\n".join([*lines, ""])


def _enforced(name: str) -> str:
    reach = importlib.import_module("cl_hive_comms.domain.policy_reach")
    found = reach.reach_of(name)
    parts = [", ".join([_shown(glob) for glob in found.served])] if found.served else []
    parts += [reach.BESIDES[name]] if name in reach.BESIDES else []
    if found.later:
        parts.append(f"{', '.join(_shown(glob) for glob in found.later)}: **not served by this version**")
    return "; ".join(parts)


def _shown(glob: str) -> str:
    schema, found, action = glob.partition("#")
    return f"`{schema}` {'' if action == '*' else f'`{action}`'}".strip() if found else glob


def _flat(key: str, rule: Any) -> Iterator[tuple[str, str]]:
    if rule.get("type") == "object" and "properties" in rule:
        for name, inner in rule["properties"].items():
            yield f"{key}.{name}", _meaning(inner)
    else:
        yield key, _meaning(rule)


_FORMATS = {
    "channel": "short channel id or 64-hex channel id",
    "node_id": "node id",
    "outpoint": "output `txid:n`",
    "uuid": "UUID",
    "msat or any": "integer from 1 (msat), or `any`",
    "nonce": "integer or decimal text, 1 to 2^63-1",
    "schema_glob": "glob over schemas, such as `hive:wallet/*`",
    "approval_overrides": "object: glob over `<category>_<action>` -> `always_confirm`, `auto_execute` or "
    "`multi_sig_N_of_M`",
    "quiet_hours": "object of `start`, `end` (`HH:MM`), `timezone`; or null",
}


def _meaning(rule: Any) -> str:
    if "format" in rule:
        return _FORMATS.get(rule["format"], str(rule["format"]))
    kind = rule["type"]
    if kind == "number" and "minimum" not in rule:
        return "number"
    if kind == "number":
        return f"number, {rule['minimum']} to {rule['maximum']}"
    if kind == "integer":
        return f"integer, {rule['minimum']} to {rule['maximum']}"
    if kind == "boolean":
        return "true or false"
    if kind == "array":
        least = f"{rule['minItems']} to " if rule["minItems"] > 1 else "up to "
        return f"list of {least}{rule['maxItems']}: {_meaning(rule['items'])}"
    if kind == "object" and "properties" not in rule:
        return "object"
    if kind == "object":
        return "object of " + ", ".join(f"`{name}`" for name in rule["properties"])
    if "enum" in rule:
        return ", ".join(f"`{word}`" for word in rule["enum"])
    if "pattern" not in rule:
        return f"text, {rule.get('minLength', 0)} to {rule['maxLength']} characters"
    pattern = str(rule["pattern"]).replace("|", r"\|")
    return f"text like `{pattern}`"


def _value(settings: Any, name: str) -> str:
    value = settings
    for part in name.removeprefix("time_restrictions.").split("."):
        value = getattr(value, part)
    if hasattr(value, "to_doc"):
        doc = value.to_doc()
        return f"{doc['start']} to {doc['end']} {doc['timezone']}"
    if value is None or (hasattr(value, "__len__") and not value):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Write the pages."""
    TARGET.mkdir(exist_ok=True)
    for name, text in pages().items():
        (TARGET / name).write_text(text, encoding="utf-8")
    TABLE.write_text(method_table(), encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("shared", *PLUGINS)]
    main()
