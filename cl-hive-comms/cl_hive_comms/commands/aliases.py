"""hive-client-alias (docs/protocol/08-client-and-plugins.md §5.2, §6 "Identity")."""

from collections.abc import Callable
from typing import Any

from hive_shared.errors import InvalidParams
from hive_shared.nostr.keys import npub_encode
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms.domain.advisor import Alias
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.credential_service import CredentialService


class AliasCommands:
    """list, set, get, remove."""

    def __init__(self, service: Callable[[], AliasService], table: Callable[[], CredentialService]) -> None:
        self._service, self._table = service, table

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-alias",
                "A",
                (
                    Param("action", "str", default="list", choices=("list", "set", "get", "remove")),
                    Param("alias", "str", default=""),
                    Param("target", "str", default=""),
                ),
                self._alias,
                "Your own names for advisors: list, set (alias, target), get (alias), remove (alias).",
                by=ClassBy("action", {"list": "R", "set": "A", "get": "R", "remove": "A"}),
            )
        ]

    async def _alias(self, params: dict[str, Any]) -> dict[str, Any]:
        service, action = self._service(), params["action"]
        if params["target"] and action != "set":
            raise InvalidParams(f"target does not belong to action={action}")
        if action == "list":
            if params["alias"]:
                raise InvalidParams("alias does not belong to action=list; action=get shows one")
            items = [self._row(alias) for alias in service.list_all()]
            return {"count": len(items), "items": items}
        if not params["alias"]:
            raise InvalidParams(f"{action} needs alias=")
        if action == "set":
            if not params["target"]:
                raise InvalidParams("set needs target=: an advisor's name or key")
            alias, warnings = await service.set(params["alias"], params["target"])
            row = self._row(alias)
            return {**row, "warning_look_alike": "; ".join(warnings)} if warnings else row
        if action == "remove":
            return {**self._row(await service.remove(params["alias"])), "removed": True}
        found = service.resolve(params["alias"])
        names = [alias.alias for alias in service.aliases_of(found.advisor_id)]
        npub = None if found.pubkey is None else npub_encode(found.pubkey)
        result = {
            "name": service.name_of(found),
            "advisor_id": found.advisor_id,
            "npub": npub,
            "aliases": names,
        }
        warnings = service.warnings(service.name_of(found), found.advisor_id)
        return {**result, "warning_look_alike": "; ".join(warnings)} if warnings else result

    def _row(self, alias: Alias) -> dict[str, Any]:
        advisor = self._table().advisor(alias.target)
        pubkey = None if advisor is None else advisor.pubkey
        return {
            "alias": alias.alias,
            "advisor_id": alias.target,
            "npub": None if pubkey is None else npub_encode(pubkey),
        }
