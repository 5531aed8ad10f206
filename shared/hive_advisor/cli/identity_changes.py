"""``hive-advisor identity passphrase``, ``rotate``, ``link-did``, ``shared``: what changes an identity."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from hive_advisor.cli.context import Settings, answered, pass_settings, typed_secret
from hive_advisor.cli.output import moment


@click.command()
@click.option("--new-passphrase-fd", "fd", type=int, help="file descriptor to read the new passphrase from")
@click.option(
    "--new-passphrase-file", "file", type=click.Path(path_type=Path), help="file of mode 0600 that holds it"
)
@pass_settings
@answered
async def passphrase(settings: Settings, fd: int | None, file: Path | None) -> None:
    """Change the passphrase; the old one is asked first. The keys stay."""
    from hive_advisor.identity_change import check_new_passphrase, store_change

    with settings.changed_identity("Old passphrase") as (unlocked, old):
        new = typed_secret(
            "New passphrase",
            fd=fd,
            file=file,
            names=("--new-passphrase-fd", "--new-passphrase-file"),
            confirm=True,
        )
        check_new_passphrase(unlocked, old, new)
        store_change(settings.paths, unlocked, new)
    data = {"profile": settings.paths.profile, "passphrase": "changed", **settings.told_engine()}
    if settings.passphrase_fd is None and os.environ.get("HIVE_ADVISOR_PASSPHRASE_FILE"):
        data["next"] = "HIVE_ADVISOR_PASSPHRASE_FILE names a file with the old one: put the new one there"
    settings.terminal.show(data)


@click.command()
@pass_settings
@answered
async def rotate(settings: Settings) -> None:
    """Use the next key. The old one is read for 30 days, and used for each client until it re-issues."""
    from hive_advisor.identity import READ_AFTER_S
    from hive_advisor.identity_change import store_change

    with settings.changed_identity() as (unlocked, opened_by):
        now = int(time.time())
        rotated = unlocked.rotated(now)
        async with settings.kit_of(unlocked, online=False) as kit:
            await settings.ask_yes("Every operator has to authorise the new key within 30 days. Rotate?")
            store_change(settings.paths, rotated, opened_by)
            await kit.record.note_rotation(unlocked.npub, rotated.npub)
            waiting = [client.alias for client in await kit.clients.all() if client.state != "ended"]
    settings.terminal.show(
        {
            "npub": rotated.npub,
            "replaced": unlocked.npub,
            "rotation": rotated.rotation,
            "replaced_is_read_until": moment(now + READ_AFTER_S),
            "clients_to_move": waiting,
            "next": "give each operator the new npub: 'hive-client-authorize <npub>', and then revoke the old"
            " one; a client has moved when its new credential is here ('hive-advisor client show'). Keep the"
            " number of the rotation with the recovery string",
            "not_told": "contracts, market profile and tombstone: this version serves no market",
        }
    )


@click.command("link-did")
@click.argument("did")
@click.option("--nonce", help="32 hex digits, as the issuer of the binding asks; default: fresh ones")
@click.option("--valid-from", help="a time like 2026-01-31T00:00:00Z; default: now")
@click.option("--attestation", help="id of the published binding, to store it")
@pass_settings
@answered
async def link_did(
    settings: Settings, did: str, nonce: str | None, valid_from: str | None, attestation: str | None
) -> None:
    """Prove that a DID made elsewhere and your key belong together.

    Prints the nostr keyProof for the binding; with --attestation, stores the id of the published binding.
    """
    from hive_shared.errors import InvalidParams

    from hive_advisor.identity_change import attest, link, proof_of, store_change

    if attestation is not None and (nonce or valid_from):
        raise InvalidParams(
            "--attestation stores what was published; --nonce and --valid-from make a new proof"
        )
    with settings.changed_identity() as (unlocked, opened_by):
        if attestation is not None:
            changed = attest(unlocked, did, attestation)
        else:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            changed = link(unlocked, did, nonce or os.urandom(16).hex(), valid_from or now)
        store_change(settings.paths, changed, opened_by)
    linked = changed.did_link
    assert linked is not None
    settings.terminal.show(
        {
            "did": linked.did,
            "bindingType": "nostr",
            "key": linked.key,
            "nonce": linked.nonce,
            "validFrom": linked.valid_from,
            "keyProof": proof_of(changed),
            "attestation": linked.attestation,
        }
    )


@click.command()
@click.option("--clear", is_flag=True, help="the other machine is stopped: send again")
@pass_settings
@answered
async def shared(settings: Settings, clear: bool) -> None:
    """Whether this key was noticed on another machine; nothing is sent until that is cleared."""
    async with settings.kit(online=False) as kit:
        found = await kit.shared_key.found()
        if found is None or not clear:
            settings.terminal.show({"identity_shared": found is not None, **(found or {})})
        await settings.ask_yes("Does no other machine use this key any more?")
        await kit.shared_key.clear()
        settings.terminal.show({"identity_shared": False, "cleared": True})
