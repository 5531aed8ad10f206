"""Authentication between the three plugins of one node: an HMAC over method and parameters.

Whoever has full RPC access is the operator; this keeps out holders of a broad rune (``method^hive-``), who
can reach the methods but not the key. docs/protocol/08-client-and-plugins.md section 3.3.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hive_shared.canonical import encode
from hive_shared.cln import ClnClient, ClnError
from hive_shared.crypto import equal, hkdf_sha256, hmac_sha256
from hive_shared.errors import Unauthorized

__all__ = ["SiblingAuth", "load_sibling_key"]

SECRET_LABEL: Final = "hive-sibling-v1"
TS_WINDOW: Final = 60
NONCES_MAX: Final = 4_096
_NONCE: Final = re.compile(r"[0-9a-f]{32}\Z")
_MAC: Final = re.compile(r"[0-9a-f]{64}\Z")


class SiblingAuth:
    """Signs our calls to siblings and checks theirs.

    Every authenticated call carries ``ts`` (unix seconds), ``nonce`` (16 random bytes, hex) and ``auth``
    beside its own parameters; a method that has a ``nonce`` of its own shares it.
    """

    def __init__(self, key: bytes, now: Callable[[], int], random_bytes: Callable[[int], bytes]) -> None:
        self._key = key
        self._now = now
        self._random = random_bytes
        self._seen: OrderedDict[str, None] = OrderedDict()

    def sign(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with ``ts``, ``nonce`` and ``auth`` added."""
        signed = {"nonce": self._random(16).hex(), **params, "ts": self._now()}
        return {**signed, "auth": self._mac(method, signed)}

    def verify(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters without ``auth``. Raises ``Unauthorized`` unless it is right, fresh and not
        replayed."""
        rest = {name: value for name, value in params.items() if name != "auth"}
        auth, nonce, ts = params.get("auth"), rest.get("nonce"), rest.get("ts")
        if not isinstance(auth, str) or not _MAC.match(auth):
            raise Unauthorized(f"{method} is for sibling plugins only; auth is missing or malformed")
        if (
            not isinstance(nonce, str)
            or not _NONCE.match(nonce)
            or isinstance(ts, bool)
            or not isinstance(ts, int)
        ):
            raise Unauthorized(f"{method} needs ts (unix seconds) and nonce (32 hex digits) beside auth")
        try:
            expected = self._mac(method, rest)
        except ValueError:
            raise Unauthorized(f"{method}: the parameters have no canonical form") from None
        if not equal(auth, expected):
            raise Unauthorized(
                f"{method}: auth does not match; only a sibling plugin of this node can call it"
            )
        if abs(self._now() - ts) > TS_WINDOW:
            raise Unauthorized(f"{method}: ts is more than {TS_WINDOW} s away from our clock")
        if nonce in self._seen:
            raise Unauthorized(f"{method}: this call was already made (nonce repeated)")
        # Only now: a caller without the key must not be able to push genuine nonces out.
        self._seen[nonce] = None
        if len(self._seen) > NONCES_MAX:
            self._seen.popitem(last=False)
        return rest

    def proof(self, nonce: str) -> str:
        """What a hello answers to show that it holds the key: HMAC of the caller's nonce bytes, hex."""
        return hmac_sha256(self._key, bytes.fromhex(nonce)).hex()

    def is_proof(self, nonce: str, proof: object) -> bool:
        """Whether a hello's answer shows that the other side holds the key."""
        return isinstance(proof, str) and equal(proof.encode(), self.proof(nonce).encode())

    def _mac(self, method: str, params: Mapping[str, Any]) -> str:
        return hmac_sha256(self._key, method.encode() + b"\x00" + encode(dict(params))).hex()


async def load_sibling_key(cln: ClnClient, net_dir: Path) -> bytes:
    """The key that the plugins of this node share: 32 bytes.

    Derived from the node's seed; where ``makesecret`` is missing, read from ``NET/hive/sibling.key``, which
    the first plugin to come creates. Raises ``ClnError`` when the node cannot be asked, ``OSError`` or
    ``ValueError`` when the file cannot be used.
    """
    try:
        secret = await cln.makesecret(SECRET_LABEL)
    except ClnError as error:
        if not error.is_unknown_command:
            raise
        return _key_from_file(net_dir / "hive" / "sibling.key")
    return hkdf_sha256(secret)


def _key_from_file(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link appears complete or not at all, and fails if a sibling was first: nobody reads half a
            # key.
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        draft.unlink()
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} is readable by others; remove it and restart the hive plugins")
    key = path.read_bytes()
    if len(key) != 32:
        raise ValueError(
            f"{path} holds {len(key)} bytes instead of 32; remove it and restart the hive plugins"
        )
    return key
