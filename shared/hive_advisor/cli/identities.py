"""``hive-advisor identity``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
from hive_shared.errors import ConfirmationRequired, Conflict, InvalidParams
from msgspec.structs import replace

from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.cli.identity_changes import link_did, passphrase, rotate, shared
from hive_advisor.cli.output import moment
from hive_advisor.private_files import read_private

_LONGEST = 4_096


@click.group()
def identity() -> None:
    """The key that signs your commands."""


for changing_command in (passphrase, rotate, link_did, shared):
    identity.add_command(changing_command)


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
@click.argument("given", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.option(
    "--file", "file", type=click.Path(path_type=Path), help="file of mode 0600; default: stdin or prompt"
)
@click.option(
    "--rotation",
    type=click.IntRange(0, 1_000),
    default=0,
    help="number of the key in use, as export-recovery printed it",
)
@pass_settings
@answered
async def import_(settings: Settings, given: tuple[str, ...], file: Path | None, rotation: int) -> None:
    """Take over a recovery string, an nsec1 or a hex key, or a recovery string and the key kept beside it.

    Never given as an argument.
    """
    from hive_advisor.identity import import_identity

    if given:
        raise InvalidParams(
            "a key is never given as an argument: it stays in the shell's history, and everybody on this"
            " machine sees it. Use --file, stdin or the prompt; what you typed counts as known to others"
        )
    if file is not None:
        text = read_private(file, "--file")
    elif sys.stdin.isatty():
        text = click.prompt("Recovery string or key", hide_input=True, err=True)
    elif settings.passphrase_fd == 0:
        raise InvalidParams("stdin cannot hold both the key and the passphrase: use --file for the key")
    else:
        text = sys.stdin.read(_LONGEST)
    made = import_identity(text, rotation=rotation, now=int(time.time()))
    settings.terminal.show(_store(settings, made))


@identity.command()
@pass_settings
@answered
async def show(settings: Settings) -> None:
    """The public side of the identity; needs no passphrase."""
    from hive_shared.nostr.keys import parse_pubkey

    from hive_advisor.identity import read_did_link, read_public

    document = read_public(settings.paths.identity)
    key = parse_pubkey(str(document.get("npub")))
    link = read_did_link(document)
    data: dict[str, object] = {
        "profile": settings.paths.profile,
        "npub": document.get("npub"),
        "key": key,
        "rotation": document.get("rotation", 0),
        "created": moment(int(str(document.get("created_at", 0)))),
    }
    if link is not None:
        data["did"], data["attestation"] = link.did, link.attestation
        if link.key != key:
            data["note"] = "the DID was linked to a key before the rotation: link it again"
    settings.terminal.show(data)


@identity.command()
@pass_settings
@answered
async def pin(settings: Settings) -> None:
    """Set or change the PIN that approvals ask for. At a terminal only; a change asks for the old one."""
    from hive_advisor.identity_change import store_change
    from hive_advisor.pin import pin_verifier

    if not sys.stdin.isatty():
        raise ConfirmationRequired("a PIN is typed by a human: run it at a terminal")
    with settings.changed_identity() as (unlocked, passphrase):
        if unlocked.pin_verifier is not None:
            await settings.ask_pin("Old PIN", unlocked.pin_verifier)
        text = str(click.prompt("New PIN", hide_input=True, confirmation_prompt=True, err=True))
        changed = replace(unlocked, pin_verifier=pin_verifier(text, passphrase))
        store_change(settings.paths, changed, passphrase)
    settings.terminal.show({"profile": settings.paths.profile, "pin": "set", **settings.told_engine()})


@identity.command("export-recovery")
@pass_settings
@answered
async def export_recovery(settings: Settings) -> None:
    """Print the recovery string. Whoever reads it owns the identity."""
    unlocked = settings.unlock()
    data: dict[str, object] = {"recovery": unlocked.recovery_string(), "npub": unlocked.npub}
    if unlocked.rotation:
        data["rotation"] = unlocked.rotation
    if unlocked.imported is not None:
        data["note"] = (
            "this identity was imported as a bare key: keep that key too, the string does not hold it"
        )
    settings.terminal.show(data)
