"""A wallet that answers NIP-47 requests on a real relay, for tests: honest, silent, repeating itself, or of
an older encryption."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, Final

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.relay import RelayPool
from pocket_wallet import PocketWallet

SERVES: Final = "pay_invoice make_invoice lookup_invoice notifications"


class NwcWalletService:
    """The wallet's end of a connection. `pocket` does the work; `offline`: requests are not even read;
    `mute`: they are acted on and not answered; `repeats`: how often each answer goes out."""

    def __init__(self, relay: str, pocket: PocketWallet) -> None:
        self.relay, self.pocket = relay, pocket
        self.secret, self.client = Secret(os.urandom(32)), Secret(os.urandom(32))
        self.key = xonly_pubkey(self.secret)
        self.offline = self.mute = False
        self.repeats = 1
        self.forged = False
        self.asked: list[dict[str, Any]] = []
        self._shared = nip44.conversation_key(self.secret, xonly_pubkey(self.client))
        self._pool = RelayPool(on_event=self._event, secret_provider=lambda: self.secret)

    @property
    def uri(self) -> str:
        """What the wallet's user copies."""
        return f"nostr+walletconnect://{self.key}?relay={self.relay}&secret={self.client.reveal().hex()}"

    async def start(self, *, encryption: str | None = "nip44_v2 nip04", serves: str = SERVES) -> None:
        """Connect, and say what the wallet serves."""
        await self._pool.set_relays([self.relay], [self.relay], [])
        self._pool.subscribe("asked", [{"kinds": [23194], "#p": [self.key]}], lambda _url: None)
        await self._pool.start()
        assert await self._pool.wait_for(lambda: self._pool.connected() == 1, 60)
        tags = [] if encryption is None else [["encryption", encryption]]
        await self._publish(13194, tags, serves)

    async def stop(self) -> None:
        """Disconnect."""
        await self._pool.stop()

    async def notify(self, payment_hash: str) -> None:
        """Tell the client that a payment came."""
        body = {"notification_type": "payment_received", "notification": {"payment_hash": payment_hash}}
        tags = [["p", xonly_pubkey(self.client)]]
        await self._publish(23197, tags, nip44.encrypt(self._shared, json.dumps(body)))

    async def _publish(
        self, kind: int, tags: list[list[str]], content: str, by: Secret | None = None
    ) -> None:
        event = build(by or self.secret, kind, tags, content, self.pocket.now())
        results = await self._pool.publish(event, [self.relay])
        assert all(result.accepted for result in results.values()), results

    async def _event(self, _relay: str, _name: str, event: Event) -> None:
        if self.offline:
            return
        request = json.loads(nip44.decrypt(self._shared, event.content))
        assert event.tag_values("encryption") == ["nip44_v2"]
        self.asked.append(request)
        done = self._done(request["method"], request["params"])
        if self.mute:
            return
        tags = [["p", event.pubkey], ["e", event.id]]
        text = json.dumps({"result_type": request["method"], **done})
        if self.forged:
            await self._publish(23195, tags, nip44.encrypt(self._shared, text), Secret(os.urandom(32)))
            return
        for number in range(self.repeats):
            # Another answer each time: what counts is the first.
            if number and "result" in done:
                text = json.dumps(
                    {"result_type": request["method"], "result": {**done["result"], "n": number}}
                )
            await self._publish(23195, tags, nip44.encrypt(self._shared, text))

    def _done(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "make_invoice":
            made = self.pocket.invoice(params["amount"], params["description"], params["expiry"])
            return {"result": {"type": "incoming", "invoice": made.text, "payment_hash": made.payment_hash}}
        if method == "pay_invoice":
            preimage = self.pocket.pay_out(params["invoice"])
            if not preimage:
                return {"error": {"code": "PAYMENT_FAILED", "message": "no route"}, "result": None}
            return {"result": {"preimage": preimage}}
        assert method == "lookup_invoice"
        found = self._found(params["payment_hash"])
        return {"result": found} if found else {"error": {"code": "NOT_FOUND", "message": "?"}}

    def _found(self, payment_hash: str) -> dict[str, Any]:
        if payment_hash in self.pocket.sent:
            preimage = self.pocket.knows[payment_hash]
            return {"type": "outgoing", "payment_hash": payment_hash, "preimage": preimage, "settled_at": 1}
        for one in self.pocket.invoices:
            if one.payment_hash == payment_hash:
                paid = {"settled_at": 1, "state": "settled", "preimage": one.preimage} if one.paid else {}
                return {"type": "incoming", "payment_hash": payment_hash, **paid}
        return {}


async def until(condition: Any, timeout: float = 60) -> None:
    """Wait for a condition that is awaited or called."""
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.02)
