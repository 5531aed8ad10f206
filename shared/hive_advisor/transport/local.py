"""Commands through the RPC socket of a node on this machine: the same envelope, nothing less checked
(docs/protocol/11-advisor-kit.md §4).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from hive_shared.cln import ClnClient, ClnError
from hive_shared.errors import TransportUnavailable

_CALL_S: Final = 30.0


class LocalLink:
    """Calls hive-comms-rpc on a lightning-rpc socket."""

    def __init__(self, agent_key: str) -> None:
        self._agent_key = agent_key

    async def call(self, socket_path: str, envelope: str) -> str:
        """The answer's text. Raises TransportUnavailable with why there is none."""
        cln = ClnClient(Path(socket_path), id_prefix="hive-advisor")
        try:
            answer = await cln.call(
                "hive-comms-rpc", {"request": envelope, "sender": self._agent_key}, timeout=_CALL_S
            )
        except ClnError as error:
            raise TransportUnavailable(f"{socket_path}: {error.message[:200]}") from error
        finally:
            await cln.close()
        return json.dumps(answer)
