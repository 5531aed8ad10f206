"""The key that seals secret columns (docs/protocol/08-client-and-plugins.md §5.3)."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from hive_shared.cln import ClnError
from hive_shared.crypto import Sealer, Secret, hkdf_sha256

_STRING = "hive-comms-at-rest-v1"
_VERSION = 1


class AtRest(msgspec.Struct, frozen=True):
    """Keys that only this node can derive: the sealer of columns, and further keys by purpose."""

    sealer: Sealer
    seed: Secret

    def subkey(self, purpose: bytes) -> bytes:
        """32 bytes for another purpose, independent of the sealer's key."""
        return hkdf_sha256(self.seed.reveal(), info=purpose)


async def open_at_rest(
    makesecret: Callable[[str], Awaitable[bytes]], net_dir: Path, random_bytes: Callable[[int], bytes]
) -> AtRest:
    """Keys under HKDF(`makesecret hive-comms-at-rest-v1`).

    A node without `makesecret` gets a random key in `NET/hive/at-rest.key` (0600) instead, see
    docs/decisions/0080-at-rest-key-without-makesecret.md. Raises OSError when that file cannot be used,
    ClnError when the node does not answer.
    """
    try:
        seed = await makesecret(_STRING)
    except ClnError as error:
        if not error.is_unknown_command:
            raise
        seed = _key_file(net_dir / "hive" / "at-rest.key", random_bytes)
    return AtRest(Sealer({_VERSION: Secret(hkdf_sha256(seed))}, _VERSION), Secret(seed))


def _key_file(path: Path, random_bytes: Callable[[int], bytes]) -> bytes:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        # O_EXCL: two starts at once must not each make a key and lose what the other sealed.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    key = random_bytes(32)
    with os.fdopen(handle, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    return key
