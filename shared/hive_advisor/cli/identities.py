"""``hive-advisor identity``."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from hive_shared.errors import ConfirmationRequired, Conflict, InvalidParams

from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.cli.output import moment


@click.group()
def identity() -> None:
    """The key that signs your commands."""


def _store(settings: Settings, made: Any) -> dict[str, object]:
    from hive_advisor.identity import write_identity

    settings.paths.make()
    if settings.paths.identity.exists():
        raise Conflict(
            f"profile {settings.paths.profile!r} has an identity already; use --profile NAME for another one"
        )
    write_identity(settings.paths.identity, made, settings.passphrase(confirm=True), now=int(time.time()))
    return {
        "npub": made.npub,
        "file": str(settings.paths.identity),
        "next": "write down the recovery string: hive-advisor identity export-recovery",
    }


@identity.command()
@pass_settings
@answered
async def create(settings: Settings) -> None:
    """Make a new identity, sealed under a passphrase."""
    from hive_advisor.identity import create_identity

    settings.terminal.show(_store(settings, create_identity()))


@identity.command("import")
@click.option(
    "--file", "file", type=click.Path(path_type=Path), help="file of mode 0600; default: stdin or prompt"
)
@pass_settings
@answered
async def import_(settings: Settings, file: Path | None) -> None:
    """Take over a recovery string, an nsec1 or a hex key. Never given as an argument."""
    from hive_advisor.identity import import_identity

    if file is not None:
        try:
            if file.stat().st_mode & 0o077:
                raise InvalidParams(f"{file} can be read by others; run: chmod 600 {file}")
            text = file.read_text()
        except OSError as error:
            raise InvalidParams(f"cannot read {file}: {error.strerror}") from error
    elif sys.stdin.isatty():
        text = click.prompt("Recovery string or key", hide_input=True, err=True)
    else:
        text = sys.stdin.readline()
    settings.terminal.show(_store(settings, import_identity(text)))


@identity.command()
@pass_settings
@answered
async def show(settings: Settings) -> None:
    """The public side of the identity; needs no passphrase."""
    from hive_shared.nostr.keys import parse_pubkey

    from hive_advisor.identity import read_public

    document = read_public(settings.paths.identity)
    settings.terminal.show(
        {
            "profile": settings.paths.profile,
            "npub": document.get("npub"),
            "key": parse_pubkey(str(document.get("npub"))),
            "created": moment(int(str(document.get("created_at", 0)))),
        }
    )


@identity.command()
@pass_settings
@answered
async def pin(settings: Settings) -> None:
    """Set or change the PIN that approvals ask for. At a terminal only; a change asks for the old one."""
    from hive_advisor.identity import read_public, write_identity
    from hive_advisor.pin import pin_verifier

    if not sys.stdin.isatty():
        raise ConfirmationRequired("a PIN is typed by a human: run it at a terminal")
    unlocked, passphrase = settings.unlock_with_passphrase()
    if unlocked.pin_verifier is not None:
        settings.ask_pin("Old PIN", unlocked.pin_verifier)
    text = str(click.prompt("New PIN", hide_input=True, confirmation_prompt=True, err=True))
    changed = replace(unlocked, pin_verifier=pin_verifier(text, passphrase))
    created = int(str(read_public(settings.paths.identity).get("created_at", 0)))
    write_identity(settings.paths.identity, changed, passphrase, now=created)
    settings.terminal.show({"profile": settings.paths.profile, "pin": "set"})


@identity.command("export-recovery")
@pass_settings
@answered
async def export_recovery(settings: Settings) -> None:
    """Print the recovery string. Whoever reads it owns the identity."""
    unlocked = settings.unlock()
    data = {"recovery": unlocked.recovery_string(), "npub": unlocked.npub}
    if unlocked.imported is not None:
        data["note"] = (
            "this identity was imported as a bare key: keep that key too, the string does not hold it"
        )
    settings.terminal.show(data)
