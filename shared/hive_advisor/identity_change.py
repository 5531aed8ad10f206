"""Changes of a sealed identity: one at a time, whole or not at all (docs/protocol/11-advisor-kit.md §2)."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hive_shared import binding
from hive_shared.errors import Conflict, InvalidParams, NotFound
from msgspec.structs import replace

from hive_advisor.identity import DidLink, Identity, read_public, write_identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.pin import is_pin

_DID_NOSTR = re.compile(r"did:nostr:.*")


@contextmanager
def changing(paths: ProfilePaths) -> Iterator[None]:
    """Held from reading the identity to writing it, so that no other change is lost in between.

    Raises Conflict while another process changes it.
    """
    if not paths.data_dir.is_dir():
        raise NotFound(f"no identity in {paths.data_dir}; make one with 'hive-advisor identity create'")
    descriptor = os.open(paths.data_dir / "identity.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict("another hive-advisor changes this identity right now; try again") from error
        yield
    finally:
        os.close(descriptor)


def store_change(paths: ProfilePaths, changed: Identity, passphrase: str) -> None:
    """Seal a changed identity anew in place of the old one, atomically; it keeps the time it was made."""
    created = int(str(read_public(paths.identity).get("created_at", 0)))
    write_identity(paths.identity, changed, passphrase, now=created)


def check_new_passphrase(identity: Identity, old: str, new: str) -> None:
    """Raises InvalidParams when ``new`` will not do: empty, the old one, the PIN."""
    if not new:
        raise InvalidParams("the new passphrase is empty; an identity is never stored in the clear")
    if new == old:
        raise InvalidParams("the new passphrase is the old one; nothing was changed")
    if identity.pin_verifier is not None and is_pin(new, identity.pin_verifier):
        raise InvalidParams("the passphrase must not be the PIN: who unlocks the kit is not who approves")


def link(identity: Identity, did: str, nonce: str, valid_from: str) -> Identity:
    """With a DID linked to the key in use; the same DID again is a new statement. Raises InvalidParams."""
    if _DID_NOSTR.fullmatch(did):
        raise InvalidParams("a did:nostr needs no link: it is the key itself")
    binding.check_for_person(did, nonce, valid_from)
    return replace(identity, did_link=DidLink(did, identity.pubkey, nonce, valid_from))


def attest(identity: Identity, did: str, attestation: str) -> Identity:
    """With the id of the published binding of a linked DID.

    Raises Conflict when another DID or another key of ours was linked, InvalidParams for a bad id.
    """
    binding.check_attestation(attestation)
    found = identity.did_link
    if found is None or found.did != did:
        raise Conflict(f"{did} is not linked yet: 'hive-advisor identity link-did {did}' makes the key proof")
    if found.key != identity.pubkey:
        raise Conflict(
            f"{did} was linked to the key before the last rotation: link it again, the old binding proves"
            " nothing for the new key"
        )
    return replace(identity, did_link=replace(found, attestation=attestation))


def proof_of(identity: Identity) -> str:
    """The keyProof of the linked DID. Raises Conflict without one, or when it is of a replaced key."""
    found = identity.did_link
    if found is None or found.key != identity.pubkey:
        raise Conflict("no DID is linked to the key in use")
    return binding.key_proof(identity.nostr_secret(), found.did, found.nonce, found.valid_from)
