"""The approval PIN: proof that a human is there, apart from the passphrase that programs hold too
(docs/protocol/11-advisor-kit.md §2).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hive_shared.canonical import decode_object
from hive_shared.crypto import equal
from hive_shared.errors import Conflict, InvalidParams

from hive_advisor.identity import Locked
from hive_advisor.private_files import replace_file

MIN_LENGTH: Final = 6
MAX_LENGTH: Final = 128
MISSES: Final = 5
LOCK_S: Final = 900
_SCRYPT_N: Final = 2**15
_VERIFIER: Final = re.compile(r"scrypt:[0-9a-f]{32}:[0-9a-f]{64}")


def pin_verifier(pin: str, passphrase: str, random_bytes: Callable[[int], bytes] = os.urandom) -> str:
    """What is kept of a PIN (inside the sealed identity). Raises InvalidParams for one that is no good."""
    if not MIN_LENGTH <= len(pin) <= MAX_LENGTH:
        raise InvalidParams(f"a PIN has {MIN_LENGTH} to {MAX_LENGTH} characters")
    if pin == passphrase:
        raise InvalidParams("the PIN must not be the passphrase: who unlocks the kit is not who approves")
    salt = random_bytes(16)
    return f"scrypt:{salt.hex()}:{_derive(pin, salt).hex()}"


def _derive(pin: str, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=8, p=1).derive(pin.encode())


def is_pin(text: str, verifier: str) -> bool:
    """Whether ``text`` is the PIN that ``verifier`` was made of; counts no try, so only for own secrets."""
    _, salt, expected = verifier.split(":")
    return equal(_derive(text, bytes.fromhex(salt)).hex(), expected)


class PinGuard:
    """Checks the PIN; after five misses it is locked for 15 minutes, over restarts too.

    A try is counted before it is judged, so that ending the process does not win one.
    """

    def __init__(self, path: Path, now: Callable[[], int]) -> None:
        self._path, self._now = path, now

    def ready(self, verifier: str | None) -> None:
        """Raise Conflict when no PIN is set, Locked while tries are locked."""
        if verifier is None:
            raise Conflict("no approval PIN is set; set one with 'hive-advisor identity pin'")
        misses, last = self._read()
        wait = last + LOCK_S - self._now()
        if misses >= MISSES and wait > 0:
            raise Locked(f"{misses} wrong PINs; try again in {wait} s")

    def check(self, pin: str, verifier: str | None) -> None:
        """Raises Locked for a wrong PIN or while locked, Conflict when none is set."""
        self.ready(verifier)
        assert verifier is not None
        misses, last = self._read()
        misses = misses + 1 if misses < MISSES or self._now() < last + LOCK_S else 1
        self._write(misses)
        if not _VERIFIER.fullmatch(verifier):
            raise Locked("the stored PIN cannot be read; restore the identity from a backup")
        if not is_pin(pin, verifier):
            left = MISSES - misses
            raise Locked(f"wrong PIN; {left} tries left" if left else f"wrong PIN; locked for {LOCK_S} s")
        self._path.unlink(missing_ok=True)

    def _write(self, misses: int) -> None:
        replace_file(self._path, json.dumps({"misses": misses, "last": self._now()}).encode())

    def _read(self) -> tuple[int, int]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return 0, 0
        try:
            document = decode_object(raw, max_bytes=256)
            return int(str(document["misses"])), int(str(document["last"]))
        except (InvalidParams, KeyError, ValueError):
            # Damaged is no way around the lock.
            return MISSES, self._now()
