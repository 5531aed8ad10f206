"""The door of `hive-comms-rpc`: whether it is open, whose rune opens it, by which further path clnrest
reaches it, and what went through (docs/protocol/02-fleet-management.md §6.3, 08-client-and-plugins.md §5.1).

clnrest, commando and the RPC socket all end in the same call, and nothing in it says which of them it was.
So hive-comms-rest-enabled closes all three.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from hive_shared.cln import ClnClient, ClnError
from hive_shared.errors import FeatureDisabled, Internal, Unauthorized

from cl_hive_comms.transport.rest import METHOD, ClnrestRunes, restrictions_for

PATH: Final = "/v1/hive/rpc"
_REGISTER: Final = "clnrest-register-path"
_NOT_PERMITTED: Final = 1502
_TOO_SOON: Final = "too soon"
_WHY: Final = {1501: "is not one of this node", 1502: "does not permit this", 1503: "was blacklisted"}

Log = Callable[..., None]


class RestDoor:
    """Admits calls of hive-comms-rpc and says how the way through clnrest is."""

    def __init__(
        self,
        cln: ClnClient,
        runes: ClnrestRunes,
        *,
        enabled: Callable[[], bool],
        required: Callable[[], bool],
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._cln, self._runes, self._enabled, self._required = cln, runes, enabled, required
        self._now, self._log = now, log
        self._path_served, self._path_owed = False, True
        self._last_ok: int | None = None
        self._running = 0

    # -- who may call ------------------------------------------------------------------------------------

    async def admit(self, rune: str, sender: str) -> None:
        """Raises FeatureDisabled while REST is off, Unauthorized (rune_rejected) for a rune that does not
        open this method to `sender`, or for none where hive-comms-rest-rune-required demands one; Internal
        when the node could not be asked."""
        if not self._enabled():
            raise FeatureDisabled(
                "this node takes commands by relays only: hive-comms-rest-enabled is false",
                reason="feature_disabled",
            )
        if not rune and not self._required():
            return
        if not rune:
            raise Unauthorized(
                "this node demands a rune with every call: add the parameter rune, beside the header of"
                " clnrest, with the rune of your credential offer",
                reason="rune_rejected",
            )
        try:
            await self._cln.checkrune(rune, METHOD, {"sender": sender})
        except ClnError as error:
            if error.outcome_unknown:
                raise Internal("the node could not check the rune", reason="node_error") from None
            if not await self._only_too_soon(error, rune, sender):
                text = f"the rune {_WHY.get(error.code, 'was refused')}"
                raise Unauthorized(text, reason="rune_rejected", data={"code": error.code}) from None

    async def _only_too_soon(self, error: ClnError, rune: str, sender: str) -> bool:
        # clnrest and commando have just used up this second's use of the same rune to let the call in
        # (docs/decisions/0170-one-rune-checked-twice.md).
        if error.code != _NOT_PERMITTED or not error.message.endswith(_TOO_SOON):
            return False
        try:
            (shown,) = (await self._cln.call("showrunes", {"rune": rune}))["runes"]
        except (ClnError, ValueError):
            return False
        ours = shown.get("our_rune", True) is True and not shown.get("blacklisted", False)
        return ours and _conditions(shown["restrictions"]) == restrictions_for(sender)

    # -- the further path ----------------------------------------------------------------------------------

    async def offer_path(self) -> None:
        """Asks clnrest to serve PATH too, once until clnrest starts again; called every minute.

        A clnrest older than v26.04, or none, has no such method: nothing to offer then.
        """
        if not self._path_owed or not self._enabled():
            return
        try:
            await self._cln.call(_REGISTER, {"path": PATH, "rpc_method": METHOD})
        except ClnError as error:
            if error.is_unknown_command:
                self._path_owed = False
                return
            if not error.message.startswith("Conflicting path"):
                self._log("warning", "rest_path_not_registered", code=error.code, why=error.message[:200])
                return
        self._path_owed, self._path_served = False, True
        self._log("debug", "rest_path_registered", path=PATH)

    async def plugin_started(self, payload: Mapping[str, Any]) -> None:
        """clnrest forgets its paths when it ends: PATH is registered anew."""
        self._runes.plugins_changed()
        if _REGISTER in (payload.get("methods") or ()):
            self._path_owed, self._path_served = True, False
            await self.offer_path()

    def plugin_stopped(self, payload: Mapping[str, Any]) -> None:
        """The path goes with clnrest."""
        self._runes.plugins_changed()
        if _REGISTER in (payload.get("methods") or ()):
            self._path_served = False

    # -- what went through -----------------------------------------------------------------------------------

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Around the handling of a call that was admitted; one that ends without an error was answered."""
        self._running += 1
        try:
            yield
            self._last_ok = self._now()
        finally:
            self._running -= 1

    async def status(self) -> dict[str, Any]:
        """The row of hive-comms-transports; `queue` is the calls being answered, none waits for later."""
        enabled = self._enabled()
        url = await self._runes.url() if enabled else None
        return {
            "name": "rest",
            "enabled": enabled,
            "state": "off" if not enabled else ("up" if url else "clnrest_absent"),
            "last_ok": self._last_ok,
            "queue": self._running,
            "url": url,
            "path": PATH if url and self._path_served else None,
        }


def _conditions(restrictions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [f"{one['fieldname']}{one['condition']}{one['value']}" for one in restriction["alternatives"]]
        for restriction in restrictions
    ]
