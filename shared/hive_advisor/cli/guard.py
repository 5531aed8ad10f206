"""``hive-advisor guard``: the advisor's own limits, and the switch that stops everything."""

from __future__ import annotations

import time

import click

from hive_advisor.cli import completing
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.guard_rules import DEFAULT_RULES, GuardRules, describe
from hive_advisor.guard_files import HaltFile, read_rules


@click.group()
def guard() -> None:
    """Limits that hold for what you send, whatever the node allows, and a halt."""


@guard.command()
@click.argument("client", required=False, shell_complete=completing.clients)
@pass_settings
@answered
async def show(settings: Settings, client: str | None) -> None:
    """The limits in force and whether everything is halted; with CLIENT also what it used up of them."""
    rules = read_rules(settings.paths.guard)
    halt = HaltFile(settings.paths.halt)
    data = {
        "file": str(settings.paths.guard),
        "halted": halt.is_on(),
        "halt_reason": halt.reason() if halt.is_on() else "",
        "global": describe(rules.everything),
        "origins": {name: describe(limits) for name, limits in rules.origins.items()},
        "clients": {name: describe(limits) for name, limits in rules.clients.items()},
    }
    if client is not None:
        async with settings.kit(online=False) as kit:
            data["used"] = await kit.guard.used((await kit.clients.named(client)).client_id)
    settings.terminal.show(data)


@guard.command()
@pass_settings
@answered
async def check(settings: Settings) -> None:
    """Read guard.toml and say what is wrong with it, or what in it is looser than the defaults."""
    rules = read_rules(settings.paths.guard)
    if rules.clients:
        async with settings.kit(online=False) as kit:
            await kit.guard.check()
    loosened = looser(rules)
    settings.terminal.show({"ok": True, "file": str(settings.paths.guard), "looser_than_default": loosened})


def looser(rules: GuardRules) -> list[str]:
    """Keys whose default was replaced by another value, by level; a reader sees what to look at."""
    found = []
    levels = [("global", rules.everything, DEFAULT_RULES.everything)]
    levels += [
        (f"origin.{name}", limits, DEFAULT_RULES.origins[name]) for name, limits in rules.origins.items()
    ]
    for where, limits, default in levels:
        now, before = describe(limits), describe(default)
        for key, value in before.items():
            new = now.get(key)
            if new is None or _less_strict(key, new, value):
                found.append(f"{where}.{key}: {value} is now {'off' if new is None else new}")
    return found


def _less_strict(key: str, new: object, default: object) -> bool:
    if isinstance(new, list) and isinstance(default, list):
        return bool(set(default) - set(new))
    if not isinstance(new, int) or not isinstance(default, int):
        return False
    return new < default if key in ("min_fee_ppm", "onchain_reserve_sats") else new > default


@guard.command()
@click.option("--reason", default="", help="for whoever reads it later")
@pass_settings
@answered
async def halt(settings: Settings, reason: str) -> None:
    """Stop everything at once but withdrawing, asking for states, and receipts. Needs no passphrase.

    Also by putting any file there: its path is shown.
    """
    file = HaltFile(settings.paths.halt)
    fresh = file.engage(reason[:500], int(time.time()))
    settings.terminal.show({"halted": True, "before": not fresh, "file": str(file.path)})


@guard.command()
@pass_settings
@answered
async def release(settings: Settings) -> None:
    """End the halt. Asks for the PIN at a terminal."""
    file = HaltFile(settings.paths.halt)
    if not file.is_on():
        settings.terminal.show({"halted": False, "before": False})
    identity = settings.unlock()
    settings.terminal.progress(f"halted: {file.reason() or 'no reason was given'}")
    await settings.ask_pin("PIN to release the halt", identity.pin_verifier)
    file.release()
    settings.terminal.show({"halted": False, "before": True})
