"""Who may import whom: commands -> services -> domain, adapters only in plugin.py."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from architecture.sources import ADAPTERS, PLUGINS, Source, imports, is_in, of_plugins, of_shared, shipped

DOMAIN_MAY_USE = (
    "hive_shared.errors",
    "hive_shared.canonical",
    "hive_shared.crypto",
    "hive_shared.machine",
    "hive_shared.registry",
    "hive_shared.credential",
    "hive_shared.credential_scope",
    "hive_shared.envelope",
    "hive_shared.receipts",
    "hive_shared.cashu",
    "hive_shared.alerts",
    "hive_shared.hidden",
    "hive_shared.l402",
    "hive_shared.market",
    "hive_shared.nostr",
    "hive_shared.vc",
    "hive_shared.web_address",
    "msgspec",
)
"""Value types and pure functions. nostr without its relay engine."""

OUTSIDE_WORLD = (
    *(
        "asyncio",
        "concurrent",
        "ctypes",
        "http",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
    ),
    *("secrets", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile"),
    *("threading", "time", "urllib.request", "uuid"),
)
"""Standard modules with a clock, a disk, a network, threads or randomness in them."""

ADAPTER_LIBRARIES = (
    *("pyln", "sqlite3", "httpx", "websockets", "pynostr"),
    *("hive_shared.cln", "hive_shared.runtime", "hive_shared.nostr.relay"),
)

MAY_IMPORT_PYLN = ("cln", "runtime", "runtime_pyln", "siblings")


Rule = Callable[[Source, str], bool]


def check(sources: tuple[Source, ...], allowed: Rule) -> None:
    """Fail with every import that `allowed` refuses."""
    found = [
        f"{source.name}:{line} imports {module}"
        for source in sources
        for line, module in imports(source)
        if not allowed(source, module)
    ]
    assert not found, "\n".join(found)


def layer(name: str) -> tuple[Source, ...]:
    return tuple(source for source in of_plugins() if source.layer == name)


def test_there_is_something_to_check() -> None:
    for package in PLUGINS.values():
        assert [source for source in of_plugins() if source.package == package], package
    assert layer("domain")
    assert layer("services")
    assert layer("storage")


def test_domain_imports_values_only() -> None:
    def allowed(source: Source, module: str) -> bool:
        if is_in(module, "hive_shared.nostr.relay"):
            return False
        if any(is_in(module, name) for name in (*DOMAIN_MAY_USE, f"{source.package}.domain", "__future__")):
            return True
        standard = module.split(".", maxsplit=1)[0] in sys.stdlib_module_names
        return standard and not any(is_in(module, name) for name in OUTSIDE_WORLD)

    check(layer("domain"), allowed)


def test_services_know_ports_not_adapters() -> None:
    def allowed(source: Source, module: str) -> bool:
        if module in ("hive_shared.cln.ClnError", "hive_shared.cln.ClnTimeout"):
            return True  # what a port over CLN raises is part of the port
        own = [f"{source.package}.{part}" for part in (*ADAPTERS, "commands", "plugin")]
        return not any(is_in(module, name) for name in (*own, *ADAPTER_LIBRARIES))

    check(layer("services"), allowed)


def test_commands_reach_services_and_domain_only() -> None:
    def allowed(source: Source, module: str) -> bool:
        banned = (*(f"{source.package}.{part}" for part in (*ADAPTERS, "plugin")), "pyln", "sqlite3")
        return not any(is_in(module, name) for name in banned)

    check(layer("commands"), allowed)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_know_no_service_but_its_ports(adapter: str) -> None:
    def allowed(source: Source, module: str) -> bool:
        if is_in(module, f"{source.package}.services"):
            return module.split(".")[2].startswith("ports")
        banned = [part for part in (*ADAPTERS, "commands", "plugin") if part != adapter]
        return not any(is_in(module, f"{source.package}.{part}") for part in banned)

    check(layer(adapter), allowed)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_only_the_composition_root_builds_adapters(adapter: str) -> None:
    others = tuple(source for source in of_plugins() if source.layer not in ("plugin", adapter))

    def allowed(source: Source, module: str) -> bool:
        return not is_in(module, f"{source.package}.{adapter}")

    check(others, allowed)


def test_plugins_never_import_each_other_nor_the_kit() -> None:
    def allowed(source: Source, module: str) -> bool:
        foreign = [package for package in (*PLUGINS.values(), "hive_advisor") if package != source.package]
        return not any(is_in(module, package) for package in foreign)

    check(of_plugins(), allowed)


def test_the_library_imports_no_plugin_and_no_kit() -> None:
    def allowed(source: Source, module: str) -> bool:
        return not any(is_in(module, package) for package in (*PLUGINS.values(), "hive_advisor"))

    check(of_shared("hive_shared"), allowed)


def test_the_kit_imports_no_plugin() -> None:
    def allowed(source: Source, module: str) -> bool:
        return not any(is_in(module, package) for package in PLUGINS.values())

    check(of_shared("hive_advisor"), allowed)


def test_one_module_of_the_kit_knows_the_mcp_library() -> None:
    def allowed(source: Source, module: str) -> bool:
        return source.module == "hive_advisor.mcp_server" or not any(
            is_in(module, name) for name in ("mcp", "mcp_types")
        )

    check(shipped(), allowed)


def test_nothing_shipped_imports_the_development_network() -> None:
    check(shipped(), lambda source, module: not is_in(module, "hive_devnet"))


def test_only_three_modules_of_the_library_know_pyln() -> None:
    def allowed(source: Source, module: str) -> bool:
        return not is_in(module, "pyln") or (
            source.package == "hive_shared" and source.path.stem in MAY_IMPORT_PYLN
        )

    check(shipped(), allowed)


def test_the_kit_runs_without_pyln() -> None:
    library = {source.module: source for source in of_shared("hive_shared")}
    waiting = list(of_shared("hive_advisor"))
    reached: dict[str, str] = {}
    while waiting:
        source = waiting.pop()
        for _, name in imports(source):
            assert not is_in(name, "pyln"), f"{source.name} is used by the kit and imports {name}"
            module = name if name in library else name.rpartition(".")[0]
            if module in library and module not in reached:
                reached[module] = source.name
                waiting.append(library[module])
    assert "hive_shared.errors" in reached
