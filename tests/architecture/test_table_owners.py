"""SQL lives in storage/; every table has one writer and stands in the registries of docs/protocol."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator

import pytest
from architecture.sources import (
    PLUGINS,
    ROOT,
    Source,
    called,
    docstrings,
    dotted,
    of_plugins,
    of_shared,
    shipped,
)
from hive_shared.crypto import Sealer, Secret
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import (
    FLEET_TICKETS,
    KIT_ECASH,
    KIT_INTAKE,
    NODE_ECASH,
    NODE_INTAKE,
    NODE_TICKETS,
    IntakeTables,
)
from hive_shared.storage.intake_store import IntakeStore
from hive_shared.storage.mint_store import MintStore

STATEMENT = re.compile(
    r"\s*(SELECT\s|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|REPLACE\s+INTO\s"
    r"|CREATE\s+(TABLE|INDEX|UNIQUE|TRIGGER|VIEW)|ALTER\s+TABLE|DROP\s|PRAGMA\s|BEGIN\b|COMMIT\b|WITH\s+\w+.*\bAS\s*\()"
)
WRITE = re.compile(
    r"\b(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE|DELETE\s+FROM|REPLACE\s+INTO)\s+([a-z_{}][\w{}.]*)"
)
HOUSES = {
    **{name: ROOT / name / package / "storage" / "migrations" for name, package in PLUGINS.items()},
    "hive_advisor": ROOT / "shared" / "hive_advisor" / "storage" / "migrations",
}

FAMILIES: dict[str, dict[str, str | IntakeTables]] = {
    "cl-hive-comms": {
        **{"cashu_store": NODE_ECASH, "mint_store": NODE_ECASH, "escrow_store": NODE_TICKETS},
        "intake_store": NODE_INTAKE,
    },
    "cl-hive": {"escrow_store": FLEET_TICKETS},
    "hive_advisor": {"cashu_store": KIT_ECASH, "mint_store": KIT_ECASH, "intake_store": KIT_INTAKE},
}
"""What hive_shared's stores put for the first words of a table's name, or all of it, by house and store."""


def texts(source: Source, family: str | IntakeTables = "") -> Iterator[tuple[int, str]]:
    """Line and content of every string that is not prose; what f-strings insert is shown as {}, or with a
    `family` of tables `self._ops` of a shared store as that table."""
    prose = docstrings(source.tree)
    inside: set[int] = set()
    for node in source.nodes:
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield node.lineno, "".join(_piece(part, family) for part in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose | inside
        ):
            yield node.lineno, node.value


def _piece(part: ast.expr, family: str | IntakeTables) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    name = dotted(part.value) if isinstance(part, ast.FormattedValue) else ""
    if not family or not name.startswith("self._"):
        return "{}"
    if isinstance(family, IntakeTables):
        return str(getattr(family, name.removeprefix("self._")))
    return family + name.removeprefix("self.")


def keeps_sql(source: Source) -> bool:
    return source.layer == "storage" or source.module == "hive_shared.store"


def tables_of(house: str) -> set[str]:
    """The tables that the migrations of a house really make."""
    connection = sqlite3.connect(":memory:")
    try:
        for file in sorted(HOUSES[house].glob("*.sql")):
            connection.executescript(file.read_text(encoding="utf-8"))
        rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {name for (name,) in rows if not name.startswith("sqlite_")}
    finally:
        connection.close()


def stores_of(house: str) -> list[Source]:
    package = PLUGINS.get(house, house)
    return [
        s for s in of_plugins() + of_shared("hive_advisor") if s.package == package and s.layer == "storage"
    ]


def test_sql_is_in_storage_and_nowhere_else() -> None:
    found = [
        f"{source.name}:{line} {text.strip()[:60]!r}"
        for source in shipped()
        if not keeps_sql(source)
        for line, text in texts(source)
        if STATEMENT.match(text)
    ]
    found += [
        f"{source.name}:{node.lineno} {called(node)}"
        for source in shipped()
        if not keeps_sql(source)
        for node in source.nodes
        if isinstance(node, ast.Call)
        and re.fullmatch(r"(tx|db|connection|cursor|conn)\.execute(many|script)?", called(node))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("house", HOUSES)
def test_every_table_has_exactly_one_writer(house: str) -> None:
    writers: dict[str, set[str]] = {table: set() for table in tables_of(house)}
    for file in HOUSES[house].glob("*.sql"):
        # A table that only migrations write (the log of migrations) has its writer too.
        for table in WRITE.findall(file.read_text(encoding="utf-8")):
            writers.setdefault(table, set()).add("migrations")
    for source in stores_of(house):
        for _, text in texts(source):
            for table in WRITE.findall(text):
                writers.setdefault(table, set()).add(source.path.stem)
    families = FAMILIES.get(house, {})
    for source in of_shared("hive_shared"):
        family = families.get(source.path.stem, "") if source.layer == "storage" else ""
        for _, text in texts(source, family) if family else ():
            for table in WRITE.findall(text):
                writers.setdefault(table, set()).add(source.path.stem)
    assert writers, f"{house} has no tables"
    unclear = {table: sorted(by) for table, by in writers.items() if len(by - {"migrations"} or by) != 1}
    assert not unclear, "\n".join(f"{table}: {by}" for table, by in sorted(unclear.items()))
    assert set(writers) <= tables_of(house), set(writers) - tables_of(house)


def test_a_shared_store_names_its_tables_as_its_attributes() -> None:
    sealer = Sealer({1: Secret(bytes(32))}, 1)
    stores = (CashuStore(sealer, "some"), MintStore("some"), EscrowStore(sealer, "some"))
    named = {name: table for store in stores for name, table in vars(store).items() if isinstance(table, str)}
    assert len(named) == 9
    assert named == {name: f"some{name}" for name in named}
    intake = IntakeStore(sealer, KIT_INTAKE)
    assert (intake._received, intake._parts) == (KIT_INTAKE.received, KIT_INTAKE.parts)


@pytest.mark.parametrize("house", HOUSES)
def test_migrations_are_numbered_without_gaps(house: str) -> None:
    numbers = sorted(int(file.name[:4]) for file in HOUSES[house].glob("*.sql"))
    assert numbers == list(range(1, len(numbers) + 1))


def registered_tables() -> set[str]:
    """Every table name of the two registries, with `_x` and `prefix_{a,b}` written out."""
    found: set[str] = set()
    index = _section("00-index.md", "## 9.")
    for row in re.findall(r"^\|[^|]*\|([^|]*)\|", index, re.MULTILINE):
        family = ""
        for name in re.split(r"[,;]\s*", row.strip()):
            if name.startswith("_"):
                found |= {family + name, family.rsplit("_", 1)[0] + name}
            elif re.fullmatch(r"[a-z_0-9]+", name):
                found.add(name)
                # `marketplace_profiles, _offers`: the family is the first name without its last word.
                family = name.rsplit("_", 1)[0] if name.count("_") else name
    for prefix, names in re.findall(r"(\w+)\{([^}]*)\}", _section("00-registry-fleet.md", "## 5.")):
        found |= {prefix + name for name in re.split(r",\s*", names)}
    found |= set(re.findall(r"\b(?:did|archon)_[a-z_]+\b", _section("00-registry-fleet.md", "## 5.")))
    return found


def _section(sheet: str, heading: str) -> str:
    text = (ROOT / "docs" / "protocol" / sheet).read_text(encoding="utf-8")
    return text.split(f"\n{heading}", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("house", PLUGINS)
def test_every_table_stands_in_the_registry(house: str) -> None:
    registered = registered_tables()
    assert {"comms_state", "comms_cashu_keysets", "marketplace_offers", "hive_members"} <= registered
    assert not tables_of(house) - registered


@pytest.mark.parametrize("house", PLUGINS)
def test_no_database_holds_tables_of_another_plugin(house: str) -> None:
    prefixes = {
        "cl-hive-comms": ("comms_", "nostr_", "management_", "marketplace_", "liquidity_"),
        "cl-hive-archon": ("archon_", "did_"),
        "cl-hive": ("hive_", "settlement_", "escrow_"),
    }
    assert not {table for table in tables_of(house) if not table.startswith(prefixes[house])}


def test_every_store_is_one_table_family() -> None:
    names = {
        source.path.stem for house in PLUGINS for source in stores_of(house) if WRITE.search(source.text)
    }
    assert all(name.endswith("_store") for name in names), names


def test_the_statement_pattern_knows_sql_from_prose() -> None:
    for sql in (
        "SELECT 1",
        "INSERT OR REPLACE INTO t VALUES (1)",
        "WITH x AS (SELECT 1)",
        "PRAGMA user_version",
    ):
        assert STATEMENT.match(sql)
    for prose in ("Select one", "UPDATE needs a restart", "selected", "BEGINNING", "DROPPED"):
        assert not STATEMENT.match(prose)
