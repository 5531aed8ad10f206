"""Runes that open `hive-comms-rpc` over clnrest to one advisor (docs/protocol/02-fleet-management.md §6.3).

The rune only opens the door: identity is the envelope's signature. There is no HTTP server of ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hive_shared.cln import ClnClient, ClnError
from hive_shared.errors import Internal, Unauthorized

RATE_PER_MINUTE = 60


class ClnrestRunes:
    """Creates and blacklists the advisors' runes."""

    def __init__(self, cln: ClnClient, *, enabled: Callable[[], bool], required: Callable[[], bool]) -> None:
        self._cln, self._enabled, self._required = cln, enabled, required

    async def check(self, rune: str, sender: str) -> None:
        """Checks a rune given with a call; one is only demanded by hive-comms-rest-rune-required.

        Raises Unauthorized (rune_rejected) with CLN's reason: foreign, not permitted or blacklisted.
        """
        if not rune and not self._required():
            return
        if not rune:
            raise Unauthorized("this node demands a rune with every call", reason="rune_rejected")
        try:
            await self._cln.checkrune(rune, "hive-comms-rpc", {"sender": sender})
        except ClnError as error:
            if error.outcome_unknown:
                raise Internal("the node could not check the rune", reason="node_error") from None
            why = {1501: "is not one of this node", 1502: "does not permit this", 1503: "was blacklisted"}
            text = f"the rune {why.get(error.code, 'was refused')}"
            raise Unauthorized(text, reason="rune_rejected", data={"code": error.code}) from None

    async def offer(self, agent_key: str) -> tuple[str, Mapping[str, Any]] | None:
        """A new rune's id and the `rest` part of a credential offer; None when REST is off or clnrest absent.

        Raises ClnError when the node refuses the rune.
        """
        if not self._enabled():
            return None
        url = await self.url()
        if url is None:
            return None
        rune = await self._cln.createrune(
            [["method=hive-comms-rpc"], [f"pnamesender={agent_key}"], [f"rate={RATE_PER_MINUTE}"]]
        )
        return str(rune["unique_id"]), {"url": url, "rune": str(rune["rune"])}

    async def url(self) -> str | None:
        """Where clnrest listens, or None when it has no port."""
        configs = (await self._cln.listconfigs())["configs"]
        port = _value(configs, "clnrest-port")
        if port is None:
            return None
        protocol = _value(configs, "clnrest-protocol") or "https"
        host = _value(configs, "clnrest-host") or "127.0.0.1"
        return f"{protocol}://{f'[{host}]' if ':' in str(host) else host}:{port}"

    async def blacklist(self, rune_ids: Sequence[str]) -> bool:
        """Makes runes worthless; False when the node could not be asked, so that it is tried again."""
        try:
            for rune_id in rune_ids:
                await self._cln.blacklistrune(start=int(rune_id), end=int(rune_id))
        except ClnError:
            return False
        return True


def _value(configs: Mapping[str, Any], name: str) -> Any:
    entry = configs.get(name)
    if not isinstance(entry, Mapping):
        return None
    return next((entry[key] for key in ("value_int", "value_str") if key in entry), None)
