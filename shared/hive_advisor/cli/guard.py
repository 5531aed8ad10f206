"""``hive-advisor guard``: the advisor's own limits, and the switch that stops everything."""

from __future__ import annotations

import time

import click
from hive_shared.errors import InvalidParams

from hive_advisor.cli import completing
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.guard_edit import changed, loosened, parse_key, value_of
from hive_advisor.domain.guard_rules import DEFAULT_RULES, describe
from hive_advisor.guard_files import HaltFile, read_rules, replace_text, text_of


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
    looser = [*loosened(DEFAULT_RULES, rules)]
    settings.terminal.show({"ok": True, "file": str(settings.paths.guard), "looser_than_default": looser})


@guard.command("set")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--unset", is_flag=True, help="take the key away: the default counts again")
@pass_settings
@answered
async def set_(settings: Settings, key: str, value: str | None, unset: bool) -> None:
    """Change one key of guard.toml, e.g.: guard set global.fee_step_pct 10

    KEY is global.<key>, client.<alias>.<key>, origin.<cli|lib|auto|mcp>.<key> or tool.<name>.<key>; VALUE a
    number, "off", a text or a JSON list. What loosens a limit asks for the PIN.
    """
    if unset is (value is not None):
        raise InvalidParams("give a value, or --unset to take the key away")
    where = parse_key(key)
    path = settings.paths.guard
    old = text_of(path)
    change = changed(old, where, None if value is None else value_of(value))
    shown = {"file": str(path), "key": key, "before": _shown(change.before), "after": _shown(change.after)}
    if change.text == old:
        settings.terminal.show({**shown, "changed": False})
    verifier = None
    if where.client is not None:
        async with settings.kit(online=False) as kit:
            await kit.clients.named(where.client)
            verifier = kit.pin_verifier
    elif change.looser:
        verifier = settings.unlock().pin_verifier
    for text in change.looser:
        settings.terminal.console.err(f"looser: {text}")
    if change.looser:
        await settings.ask_pin("PIN to loosen the guard", verifier)
    settings.paths.make()
    replace_text(path, old, change.text)
    settings.terminal.show({**shown, "changed": True, "looser": [*change.looser]})


def _shown(value: object) -> object:
    return "off" if value is None else value


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
