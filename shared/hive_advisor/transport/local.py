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

    async def call(self, socket_path: str, envelope: str, rune: str | None, sender: str) -> str:
        """The answer's text; `sender` is the key that signed.

        `rune` goes along only where the node demands one. Raises TransportUnavailable with why there is none.
        """
        cln = ClnClient(Path(socket_path), id_prefix="hive-advisor")
        params = {"request": envelope, "sender": sender}
        try:
            try:
                answer = await cln.call("hive-comms-rpc", params, timeout=_CALL_S)
            except ClnError as error:
                if rune is None or not demands_rune(error):
                    raise
                answer = await cln.call("hive-comms-rpc", {**params, "rune": rune}, timeout=_CALL_S)
        except ClnError as error:
            raise TransportUnavailable(f"{socket_path}: {error.message[:200]}") from error
        finally:
            await cln.close()
        return json.dumps(answer)


def demands_rune(error: ClnError) -> bool:
    """Whether the node refused for want of the parameter rune (its option rest-rune-required)."""
    return isinstance(error.data, dict) and error.data.get("reason") == "rune_rejected"
