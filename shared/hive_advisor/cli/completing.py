"""What the shell completes besides options: clients, actions and their parameters, ids
(docs/protocol/11-advisor-kit.md §10). From the registry and the local database; asks nobody and unlocks
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from hive_advisor.domain.cleaning import clean_value


def _items(pairs: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    found = sorted(pair for pair in pairs if pair[0].lower().startswith(incomplete.lower()))
    return [CompletionItem(value, help=str(clean_value(text)) or None) for value, text in found]


def _database(ctx: click.Context) -> Path:
    from hive_advisor.paths import profile_paths

    given = ctx.find_root().params
    return profile_paths(str(given.get("profile") or "default"), given.get("config_dir")).database


def clients(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Aliases of clients."""
    from hive_advisor.storage.names import StoredNames

    return _items(StoredNames(_database(ctx)).clients(), incomplete)


def commands(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of commands."""
    from hive_advisor.storage.names import StoredNames

    return _items(StoredNames(_database(ctx)).commands(incomplete), incomplete)


def tickets(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of tickets."""
    from hive_advisor.storage.names import StoredNames

    return _items(StoredNames(_database(ctx)).tickets(incomplete), incomplete)


def offers(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of our offers."""
    from hive_advisor.storage.names import StoredNames

    return _items(StoredNames(_database(ctx)).offers(), incomplete)


def threads(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of contracts that are negotiated or were."""
    from hive_advisor.storage.names import StoredNames

    return _items(StoredNames(_database(ctx)).threads(incomplete), incomplete)


def contracts(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of contracts that their operators signed."""
    from hive_advisor.storage.names import StoredNames

    return _items(StoredNames(_database(ctx)).contracts(incomplete), incomplete)


def approvals(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of approval requests."""
    from hive_advisor.storage.names import StoredNames

    return _items(StoredNames(_database(ctx)).approvals(incomplete), incomplete)


def mints(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Addresses of mints."""
    from hive_advisor.storage.names import StoredNames

    return _items(StoredNames(_database(ctx)).mints(), incomplete)


def targets(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """SCHEMA/ACTION of everything that can be sent, with or without ``hive:``."""
    from hive_shared import registry

    from hive_advisor.domain.schema_help import CONTROL, name_of

    # Without "hive:" unless it is being typed: bash takes the colon for the end of a word.
    whole = bool(incomplete) and (incomplete.startswith("hive:") or "hive:".startswith(incomplete))
    pairs = (
        (name_of(spec), "reads" if spec.read_only else "changes")
        for spec in registry.actions()
        if spec.served and spec.schema != CONTROL
    )
    return _items(
        ((value if whole else value.removeprefix("hive:"), text) for value, text in pairs), incomplete
    )


def parameters(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """NAME= of the parameters of the action that was typed before; values where there is a fixed set."""
    from hive_shared import registry
    from hive_shared.errors import HiveError

    from hive_advisor.domain.schema_help import fields_of, split_target

    try:
        fields = fields_of(registry.find(*split_target(str(ctx.params.get("target") or ""))))
    except HiveError:
        return []
    name, equals, _ = incomplete.partition("=")
    if equals:
        values = next((field.values for field in fields if field.name == name), ())
        return _items(((f"{name}={value}", "") for value in values), incomplete)
    given = {str(pair).partition("=")[0] for pair in ctx.params.get("pairs") or ()}
    return _items(((f"{field.name}=", field.kind) for field in fields if field.name not in given), incomplete)
