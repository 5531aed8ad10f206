"""Authenticated calls to comms, as a sibling plugin makes them (Protocol 08 §3.3)."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from comms_world import call
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_shared.crypto import hkdf_sha256
from hive_shared.siblings_auth import SiblingAuth


class Sibling:
    """Makes authenticated calls, as a sibling plugin would."""

    def __init__(self, node: NodeHandle, key: bytes) -> None:
        self._node = node
        self._auth = SiblingAuth(key, lambda: int(time.time()), os.urandom)

    @classmethod
    async def of(cls, node: NodeHandle) -> Sibling:
        secret = bytes.fromhex((await call(node, "makesecret", string="hive-sibling-v1"))["secret"])
        return cls(node, hkdf_sha256(secret))

    async def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        return await self._node.call(method, self._auth.sign(method, params))

    async def refused(self, method: str, /, **params: Any) -> DevnetRpcError:
        with pytest.raises(DevnetRpcError) as error:
            await self.call(method, **params)
        return error.value
