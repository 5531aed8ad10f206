"""Runes that open `hive-comms-rpc` over clnrest to one advisor (docs/protocol/02-fleet-management.md §6.3).

The rune only opens the door: identity is the envelope's signature. There is no HTTP server of ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hive_shared.cln import ClnClient, ClnError

METHOD: Final = "hive-comms-rpc"
RATE_PER_MINUTE: Final = 60


def restrictions_for(agent_key: str) -> list[list[str]]:
    """What a rune of an advisor permits: this method, for its key, once a second as CLN counts."""
    return [[f"method={METHOD}"], [f"pnamesender={agent_key}"], [f"rate={RATE_PER_MINUTE}"]]


class ClnrestRunes:
    """Creates and blacklists the advisors' runes; knows where clnrest listens."""

    def __init__(self, cln: ClnClient, *, enabled: Callable[[], bool], static: Callable[[], str]) -> None:
        self._cln, self._enabled, self._static = cln, enabled, static
        self._url: str | None = None
        self._plugins_seen, self._url_of = 0, -1

    async def offer(self, agent_key: str) -> tuple[str | None, Mapping[str, Any]] | None:
        """A new rune's number and the `rest` part of a credential offer; None when REST is off or clnrest
        absent. The number is None for hive-comms-rest-rune-static: what all share is never blacklisted.

        Raises ClnError when the node refuses the rune.
        """
        if not self._enabled():
            return None
        url = await self.url()
        if url is None:
            return None
        if static := self._static():
            return None, {"url": url, "rune": static}
        rune = await self._cln.createrune(restrictions_for(agent_key))
        return str(rune["unique_id"]), {"url": url, "rune": str(rune["rune"])}

    async def url(self) -> str | None:
        """Where clnrest listens, or None when it has no port. Asked of the node once until plugins change."""
        if self._url_of == self._plugins_seen:
            return self._url
        seen = self._plugins_seen
        url = _listening((await self._cln.listconfigs())["configs"])
        self._url, self._url_of = url, seen
        return url

    def plugins_changed(self) -> None:
        """clnrest may have come or gone: its address is asked for again."""
        self._plugins_seen += 1

    async def blacklist(self, rune_ids: Sequence[str]) -> bool:
        """Makes runes worthless; False when the node could not be asked, so that it is tried again."""
        try:
            for rune_id in rune_ids:
                await self._cln.blacklistrune(start=int(rune_id), end=int(rune_id))
        except ClnError:
            return False
        return True


def _listening(configs: Mapping[str, Any]) -> str | None:
    port = _value(configs, "clnrest-port")
    if port is None:
        return None
    protocol = _value(configs, "clnrest-protocol") or "https"
    host = _value(configs, "clnrest-host") or "127.0.0.1"
    return f"{protocol}://{f'[{host}]' if ':' in str(host) else host}:{port}"


def _value(configs: Mapping[str, Any], name: str) -> Any:
    entry = configs.get(name)
    if not isinstance(entry, Mapping):
        return None
    return next((entry[key] for key in ("value_int", "value_str") if key in entry), None)
