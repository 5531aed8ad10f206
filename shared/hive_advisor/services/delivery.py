"""Which way a command goes, and the next way when that one fails: always the same bytes
(docs/protocol/11-advisor-kit.md §4, §5.2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from hive_shared.errors import Conflict, InvalidParams, TransportUnavailable
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.route import (
    CommandoRoute,
    OfferedRest,
    RestRoute,
    Routes,
    check_address,
    check_fingerprint,
    check_rest_url,
)
from hive_advisor.domain.rows import Client, StoredCommand, StoredCredential
from hive_advisor.services.ports import (
    RELAY_PATIENCE_S,
    CommandoCalls,
    Link,
    LocalCalls,
    RestCalls,
    RouteRows,
)

RESEND_S = {"nostr": 45, "rest": 20, "local": 20, "commando": 20}
"""How long each way has for an answer before the same bytes go out again."""

_BEFORE_OTHERS_S = 4.0
"""How long relays have for taking a command that can also go another way."""

Answered = Callable[[Client, str], Awaitable[None]]


class Ways(msgspec.Struct, frozen=True):
    """The ways to a client, best first, with what each of them needs."""

    order: tuple[str, ...]
    rest: tuple[RestRoute, OfferedRest] | None
    socket_path: str | None
    rune: str | None = None
    commando: tuple[CommandoRoute, str] | None = None

    @property
    def resend_s(self) -> int:
        """How long the first way has for an answer."""
        return RESEND_S[self.order[0]]


class DeliveryService:
    """Owns the routes of clients and carries commands over them."""

    def __init__(
        self,
        db: Db,
        rows: RouteRows,
        *,
        order: Sequence[str],
        nostr: Link,
        rest: RestCalls,
        local: LocalCalls,
        commando: CommandoCalls,
        answered: Answered,
        say: Callable[[str], None],
    ) -> None:
        self._db, self._rows, self._order = db, rows, tuple(order)
        self._nostr, self._rest, self._local, self._commando = nostr, rest, local, commando
        self._answered, self._say = answered, say

    async def ways(self, client: Client, command: StoredCommand) -> Ways:
        """The ways this command can take. A repeat begins with the way after the last one tried first."""

        def body(tx: Tx) -> tuple[Routes, OfferedRest | None]:
            return self._rows.routes(tx, client.client_id), self._rows.offered(tx, command.credential_id)

        routes, offered = await self._db.read(body)
        rest = (routes.rest, offered) if routes.rest is not None and offered is not None else None
        carrier = routes.commando
        rune = None if offered is None else offered.rune
        opens = None if carrier is None else carrier.rune or rune
        commando = None if carrier is None or opens is None else (carrier, opens)
        usable = {
            "nostr": True,
            "rest": rest is not None,
            "local": routes.socket_path is not None,
            "commando": commando is not None,
        }
        order = [name for name in self._order if usable[name]]
        if not order:
            raise Conflict(f"no way to {client.alias!r}: transport.order names none that is set up for it")
        first = command.sends % len(order)
        return Ways((*order[first:], *order[:first]), rest, routes.socket_path, rune, commando)

    async def deliver(
        self,
        client: Client,
        content: str,
        relays: Sequence[str],
        ways: Ways,
        *,
        expires_at: int,
        sender: str,
    ) -> str | None:
        """Send over the first way that takes it; its name, or None when none does.

        `sender` is the key of ours that signed. REST, the socket and commando answer at once; such an answer
        has been handled when this returns.
        """
        for name in ways.order:
            if name == "nostr":
                others_follow = name != ways.order[-1]
                if await self._nostr.deliver(
                    client.node_key,
                    content,
                    relays,
                    expires_at=expires_at,
                    sender=sender,
                    patience_s=_BEFORE_OTHERS_S if others_follow else RELAY_PATIENCE_S,
                ):
                    return name
                self._say("no relay took the command")
                continue
            try:
                answer = await self._call(name, client, ways, content, sender)
            except TransportUnavailable as error:
                self._say(error.detail)
                continue
            await self._answered(client, answer)
            return name
        return None

    async def _call(self, name: str, client: Client, ways: Ways, content: str, sender: str) -> str:
        if name == "rest" and ways.rest is not None:
            return await self._rest.call(*ways.rest, content, sender)
        if name == "commando" and ways.commando is not None:
            return await self._commando.call(*ways.commando, client.node_id, content, sender)
        assert ways.socket_path is not None
        return await self._local.call(ways.socket_path, content, ways.rune, sender)

    # -- routes --------------------------------------------------------------------------------------

    async def routes(self, client: Client) -> Routes:
        """What is set for a client."""
        return await self._db.read(lambda tx: self._rows.routes(tx, client.client_id))

    async def set_rest(
        self,
        client: Client,
        credential: StoredCredential,
        *,
        url: str | None,
        ca_cert: str | None,
        tls_sha256: str | None,
        allow_private: bool,
    ) -> Routes:
        """Use REST for a client, at `url` or where its offer says.

        Raises Conflict when the credential came without a rune, InvalidParams for a bad address or pin.
        """
        offered = await self._db.read(lambda tx: self._rows.offered(tx, credential.credential_id))
        if offered is None:
            raise Conflict(
                f"{client.alias!r} gave no rune with its credential: its node offers no REST;"
                " once it does, its operator has to authorise you again"
            )
        if ca_cert is not None and tls_sha256 is not None:
            raise InvalidParams("give the authority's certificate or the pinned SHA-256, not both")
        pin = None if tls_sha256 is None else check_fingerprint(tls_sha256)
        route = RestRoute(
            check_rest_url(url or offered.url, allow_private=allow_private),
            ca_cert,
            pin or (offered.tls_sha256 if url is None and ca_cert is None else None),
            allow_private,
        )
        return await self._change(client, lambda routes: replace(routes, rest=route))

    async def set_socket(self, client: Client, path: str) -> Routes:
        """Use the RPC socket of a node on this machine."""
        return await self._change(client, lambda routes: replace(routes, socket_path=path))

    async def set_commando(
        self,
        client: Client,
        credential: StoredCredential,
        *,
        socket_path: str,
        rune: str | None,
        address: str | None,
    ) -> Routes:
        """Use commando of the own node at `socket_path`, with `rune` or the one of the offer.

        Raises Conflict when there is no rune at all, InvalidParams for a bad address.
        """
        offered = await self._db.read(lambda tx: self._rows.offered(tx, credential.credential_id))
        if rune is None and offered is None:
            raise Conflict(
                f"{client.alias!r} gave no rune with its credential, and commando needs one: ask its operator"
                " for a rune for hive-comms-rpc and your key, and give it with --rune-file"
            )
        host, port = (None, None) if address is None else check_address(address)
        route = CommandoRoute(socket_path, rune, host, port)
        return await self._change(client, lambda routes: replace(routes, commando=route))

    async def clear(self, client: Client, *ways: str) -> Routes:
        """Stop using `rest`, `local`, `commando`."""
        return await self._change(
            client,
            lambda routes: Routes(
                None if "rest" in ways else routes.rest,
                None if "local" in ways else routes.socket_path,
                None if "commando" in ways else routes.commando,
            ),
        )

    async def keep_offered(self, credential_id: str, rest: OfferedRest | None) -> None:
        """Remember what an offer said about REST; nothing uses it before the user sets it."""
        if rest is not None:
            await self._db.write(lambda tx: self._rows.keep_offered(tx, credential_id, rest))

    async def _change(self, client: Client, change: Callable[[Routes], Routes]) -> Routes:
        def body(tx: Tx) -> Routes:
            routes = change(self._rows.routes(tx, client.client_id))
            self._rows.set_routes(tx, client.client_id, routes)
            return routes

        return await self._db.write(body)
