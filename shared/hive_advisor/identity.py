"""The advisor's identity: one root, derived keys, a sealed file (docs/protocol/11-advisor-kit.md §2)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from hive_shared.canonical import decode_object, encode
from hive_shared.crypto import Secret, hkdf_sha256, xonly_pubkey
from hive_shared.errors import Capacity, InvalidParams, NotFound, Unauthorized
from hive_shared.nostr.keys import npub_encode
from msgspec.structs import asdict, replace

from hive_advisor.private_files import replace_file

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_SALT = b"hive-advisor/v1"
_HRP = "hivesec"
_SCRYPT = {"n": 2**17, "r": 8, "p": 1}
_FILE_LIMIT = 16_384
READ_AFTER_S: Final = 30 * 86_400
"""For how long messages to a replaced key are still read."""
MAX_OLD_KEYS: Final = 3


class Locked(Unauthorized):
    """The identity could not be unlocked: wrong passphrase, or too many tries (exit code 9)."""


class DidLink(msgspec.Struct, frozen=True):
    """A DID made elsewhere and what it takes to prove that it and our key ``key`` belong together
    (docs/protocol/09-archon.md §7). ``attestation`` is the id of the published binding, None before that."""

    did: str
    key: str
    nonce: str
    valid_from: str
    attestation: str | None = None


class Identity(msgspec.Struct, frozen=True):
    """An unlocked identity. ``imported`` is a Nostr key that came from elsewhere and replaces nostr/0.

    ``pin_verifier`` is what is kept of the approval PIN, None when none is set. ``retired_at`` says when
    the keys nostr/0, nostr/1 ... were replaced (unix seconds); the one after them is in use.
    """

    root: Secret
    imported: Secret | None = None
    pin_verifier: str | None = None
    retired_at: tuple[int, ...] = ()
    did_link: DidLink | None = None

    def __repr__(self) -> str:
        """Without the verifier: a PIN is short enough to be guessed from it."""
        return f"Identity(rotation={self.rotation}, did_link={self.did_link!r})"

    @property
    def rotation(self) -> int:
        """Number of the key in use: nostr/<rotation>."""
        return len(self.retired_at)

    def nostr_secret(self, index: int | None = None) -> Secret:
        """The key that signs commands, or the key of that number: the imported one, or ``nostr/<index>``."""
        index = self.rotation if index is None else index
        if self.imported is not None and index == 0:
            return self.imported
        wide = hkdf_sha256(self.root.reveal(), salt=_SALT, info=f"nostr/{index}".encode(), length=48)
        scalar = int.from_bytes(wide, "big") % (_ORDER - 1) + 1
        return Secret(scalar.to_bytes(32, "big"))

    def escrow_secret(self) -> Secret:
        """Master of the escrow lock keys (docs/protocol/03-escrow-and-payments.md §4.1)."""
        return Secret(hkdf_sha256(self.root.reveal(), salt=_SALT, info=b"escrow", length=32))

    def store_secret(self) -> Secret:
        """Key that seals columns of the local database."""
        return Secret(hkdf_sha256(self.root.reveal(), salt=_SALT, info=b"store", length=32))

    @property
    def pubkey(self) -> str:
        """x-only hex public key of the current Nostr key."""
        return xonly_pubkey(self.nostr_secret())

    @property
    def npub(self) -> str:
        return npub_encode(self.pubkey)

    def recovery_string(self) -> str:
        """The root as bech32m with prefix ``hivesec``. Whoever reads it owns the identity."""
        from pynostr import bech32

        data = bech32.convertbits(self.root.reveal(), 8, 5)
        return str(bech32.bech32_encode(_HRP, data, bech32.Encoding.BECH32M))

    def readable_secrets(self, now: int) -> list[Secret]:
        """The key in use, and before it the replaced ones that are still read, oldest first."""
        old = [self.nostr_secret(i) for i, at in enumerate(self.retired_at) if now < at + READ_AFTER_S]
        return [*old, self.nostr_secret()]

    def rotated(self, now: int) -> Identity:
        """With the next key in use. Raises Capacity while too many replaced ones are read."""
        if sum(now < at + READ_AFTER_S for at in self.retired_at) >= MAX_OLD_KEYS:
            raise Capacity(
                f"{MAX_OLD_KEYS} replaced keys are still read; each is for {READ_AFTER_S // 86_400} days"
            )
        return replace(self, retired_at=(*self.retired_at, now))


def create_identity(random_bytes: Callable[[int], bytes] = os.urandom) -> Identity:
    """A new identity from 32 random bytes."""
    return Identity(root=Secret(random_bytes(32)))


def import_identity(
    text: str, random_bytes: Callable[[int], bytes] = os.urandom, *, rotation: int = 0, now: int = 0
) -> Identity:
    """An identity from a recovery string, an ``nsec1`` or 64 hex digits, or a recovery string and a key.

    A bare Nostr key is kept beside a fresh root: both are then needed for recovery. ``rotation`` is the
    number of the key in use; the one before it is read as if it had been replaced ``now``.
    Raises InvalidParams.
    """
    words = text.split()
    if not 1 <= len(words) <= 2:
        raise InvalidParams(
            "give a recovery string or a key, or a recovery string and the key kept beside it"
        )
    roots = [_decode_recovery(word) for word in words if word.lower().startswith(_HRP + "1")]
    keys = [_decode_key(word) for word in words if not word.lower().startswith(_HRP + "1")]
    if len(roots) > 1 or len(keys) > 1:
        raise InvalidParams("two of a kind: an identity is one recovery string and at most one key")
    if rotation and not roots:
        raise InvalidParams("the number of a rotation goes with a recovery string: later keys come from it")
    return Identity(
        root=roots[0] if roots else Secret(random_bytes(32)),
        imported=keys[0] if keys else None,
        retired_at=(*(0 for _ in range(rotation - 1)), now) if rotation else (),
    )


def _decode_key(text: str) -> Secret:
    from hive_shared.nostr.keys import nsec_decode

    try:
        secret = nsec_decode(text) if text.startswith("nsec1") else Secret(bytes.fromhex(text))
        valid = len(secret.reveal()) == 32 and 0 < int.from_bytes(secret.reveal(), "big") < _ORDER
    except ValueError:
        valid = False
    if not valid:
        raise InvalidParams(
            "the text is neither a hivesec1 recovery string, an nsec1 nor 64 hex digits of a key"
        )
    return secret


def _decode_recovery(text: str) -> Secret:
    from pynostr import bech32

    hrp, data, spec = bech32.bech32_decode(text)
    raw = bech32.convertbits(data, 5, 8, False) if data else None
    if hrp != _HRP or spec != bech32.Encoding.BECH32M or raw is None or len(raw) != 32:
        raise InvalidParams("the recovery string has a wrong character or checksum: copy it again, all of it")
    return Secret(bytes(raw))


def _derive(passphrase: str, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=32, **_SCRYPT).derive(passphrase.encode())


def write_identity(
    path: Path,
    identity: Identity,
    passphrase: str,
    *,
    now: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> None:
    """Seal ``identity`` under ``passphrase`` into ``path``: mode 0600, replaced atomically.

    Raises InvalidParams for an empty passphrase: there is no plaintext mode.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not passphrase:
        raise InvalidParams("the passphrase is empty; an identity is never stored in the clear")
    salt, nonce = random_bytes(16), random_bytes(12)
    clear: dict[str, object] = {
        "v": 1,
        "npub": identity.npub,
        "created_at": now,
        "kdf": {"name": "scrypt", **_SCRYPT, "salt": salt.hex()},
        "nonce": nonce.hex(),
    }
    if identity.rotation:
        clear["rotation"] = identity.rotation
    if identity.did_link is not None:
        clear["did_link"] = asdict(identity.did_link)
    inner = encode(
        {
            "root": identity.root.reveal().hex(),
            "keys": [identity.imported.reveal().hex()] if identity.imported else [],
            "pin_verifier": identity.pin_verifier,
            "retired_at": list(identity.retired_at),
        }
    )
    sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, inner, encode(clear))
    body = json.dumps({**clear, "sealed": sealed.hex()}, indent=1).encode()
    replace_file(path, body)


def read_public(path: Path) -> dict[str, object]:
    """The clear fields of an identity file. Raises NotFound, InvalidParams."""
    if not path.exists():
        raise NotFound(f"no identity in {path.parent}; make one with 'hive-advisor identity create'")
    document = decode_object(path.read_bytes(), max_bytes=_FILE_LIMIT)
    if document.get("v") != 1 or not isinstance(document.get("sealed"), str):
        raise InvalidParams(f"{path.name} is not an identity file of version 1")
    return dict(document)


def read_identity(path: Path, passphrase: str) -> Identity:
    """Unlock the identity file. Raises NotFound, InvalidParams, Locked (wrong passphrase or altered file)."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    document = read_public(path)
    clear = {key: value for key, value in document.items() if key != "sealed"}
    try:
        kdf = document["kdf"]
        if not isinstance(kdf, dict) or {k: kdf.get(k) for k in _SCRYPT} != _SCRYPT:
            raise InvalidParams("the identity file names key derivation parameters this version does not use")
        salt, nonce = bytes.fromhex(str(kdf["salt"])), bytes.fromhex(str(document["nonce"]))
        sealed = bytes.fromhex(str(document["sealed"]))
    except (KeyError, ValueError) as error:
        raise InvalidParams("the identity file is damaged; restore it from a backup") from error
    try:
        inner = AESGCM(_derive(passphrase, salt)).decrypt(nonce, sealed, encode(clear))
    except (InvalidTag, ValueError) as error:
        raise Locked("wrong passphrase, or the identity file was altered") from error
    secrets = decode_object(inner)
    keys = secrets.get("keys")
    imported = Secret(bytes.fromhex(str(keys[0]))) if isinstance(keys, list) and keys else None
    pin, retired = secrets.get("pin_verifier"), secrets.get("retired_at", [])
    return Identity(
        root=Secret(bytes.fromhex(str(secrets["root"]))),
        imported=imported,
        pin_verifier=pin if isinstance(pin, str) else None,
        retired_at=tuple(int(str(at)) for at in retired) if isinstance(retired, list) else (),
        did_link=read_did_link(document),
    )


def read_did_link(document: Mapping[str, object]) -> DidLink | None:
    """The linked DID among the clear fields, None without one."""
    link = document.get("did_link")
    if not isinstance(link, dict):
        return None
    attestation = link.get("attestation")
    did, key, nonce, valid_from = (str(link.get(name)) for name in ("did", "key", "nonce", "valid_from"))
    return DidLink(did, key, nonce, valid_from, None if attestation is None else str(attestation))


class UnlockThrottle:
    """Growing delay after wrong passphrases: 1, 2, 4 ... 300 s, kept over restarts."""

    def __init__(self, path: Path, now: Callable[[], int]) -> None:
        self._path, self._now = path, now

    def check(self) -> None:
        """Raise Locked while the delay of the last failure runs."""
        count, last = self._read()
        if count < 2:
            return
        wait = last + min(2 ** (count - 2), 300) - self._now()
        if wait > 0:
            raise Locked(f"{count} wrong passphrases in a row; try again in {wait} s")

    def failed(self) -> None:
        count, _ = self._read()
        replace_file(self._path, json.dumps({"count": count + 1, "last": self._now()}).encode())

    def succeeded(self) -> None:
        self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[int, int]:
        try:
            document = decode_object(self._path.read_bytes(), max_bytes=256)
            return int(str(document["count"])), int(str(document["last"]))
        except (OSError, InvalidParams, KeyError, ValueError):
            return 0, 0
