"""The advisor's identity: one root, derived keys, a sealed file (docs/protocol/11-advisor-kit.md §2)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hive_shared.canonical import decode_object, encode
from hive_shared.crypto import Secret, hkdf_sha256, xonly_pubkey
from hive_shared.errors import InvalidParams, NotFound, Unauthorized
from hive_shared.nostr.keys import npub_encode

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_SALT = b"hive-advisor/v1"
_HRP = "hivesec"
_SCRYPT = {"n": 2**17, "r": 8, "p": 1}
_FILE_LIMIT = 16_384


class Locked(Unauthorized):
    """The identity could not be unlocked: wrong passphrase, or too many tries (exit code 9)."""


@dataclass(frozen=True)
class Identity:
    """An unlocked identity. ``imported`` is a Nostr key that came from elsewhere and replaces nostr/0.

    ``pin_verifier`` is what is kept of the approval PIN, None when none is set.
    """

    root: Secret
    imported: Secret | None = None
    pin_verifier: str | None = field(default=None, repr=False)

    def nostr_secret(self, index: int = 0) -> Secret:
        """The key that signs commands: the imported one, or ``nostr/<index>`` of the root."""
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


def create_identity(random_bytes: Callable[[int], bytes] = os.urandom) -> Identity:
    """A new identity from 32 random bytes."""
    return Identity(root=Secret(random_bytes(32)))


def import_identity(text: str, random_bytes: Callable[[int], bytes] = os.urandom) -> Identity:
    """An identity from a recovery string, an ``nsec1`` or 64 hex digits.

    A bare Nostr key is kept beside a fresh root: both are then needed for recovery.
    Raises InvalidParams.
    """
    from hive_shared.nostr.keys import nsec_decode

    text = text.strip()
    if text.lower().startswith(_HRP + "1"):
        return Identity(root=_decode_recovery(text))
    try:
        secret = nsec_decode(text) if text.startswith("nsec1") else Secret(bytes.fromhex(text))
        valid = len(secret.reveal()) == 32 and 0 < int.from_bytes(secret.reveal(), "big") < _ORDER
    except ValueError:
        valid = False
    if not valid:
        raise InvalidParams(
            "the text is neither a hivesec1 recovery string, an nsec1 nor 64 hex digits of a key"
        )
    return Identity(root=Secret(random_bytes(32)), imported=secret)


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
    keys = [identity.imported.reveal().hex()] if identity.imported else []
    inner = encode(
        {"root": identity.root.reveal().hex(), "keys": keys, "pin_verifier": identity.pin_verifier}
    )
    sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, inner, encode(clear))
    body = json.dumps({**clear, "sealed": sealed.hex()}, indent=1).encode()
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(body)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


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
    pin = secrets.get("pin_verifier")
    root = Secret(bytes.fromhex(str(secrets["root"])))
    return Identity(root=root, imported=imported, pin_verifier=pin if isinstance(pin, str) else None)


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
        self._path.write_text(json.dumps({"count": count + 1, "last": self._now()}))
        self._path.chmod(0o600)

    def succeeded(self) -> None:
        self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[int, int]:
        try:
            document = decode_object(self._path.read_bytes(), max_bytes=256)
            return int(str(document["count"])), int(str(document["last"]))
        except (OSError, InvalidParams, KeyError, ValueError):
            return 0, 0
