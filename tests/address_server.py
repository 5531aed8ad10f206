"""The server of a Lightning address, over TLS on this machine, for tests: honest, or as `says` has it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hive_devnet.certificates import make_certificates
from pocket_wallet import PocketWallet

HOST = "pay.example.org"


class AddressServer:
    """Serves me@pay.example.org and its callback and verify URL. `says` replaces parts of an answer by path;
    `raw` is an answer as bytes."""

    def __init__(self, directory: Path, pocket: PocketWallet) -> None:
        make_certificates(directory, HOST)
        self.trust = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
        self.pocket = pocket
        self.says: dict[str, dict[str, Any]] = {}
        self.raw: dict[str, bytes] = {}
        self.asked: list[str] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    @property
    def address(self) -> str:
        """The Lightning address."""
        return f"me@{HOST}:{self.port}"

    async def resolve(self, host: str, _port: int) -> str:
        """The name service of the test: the server's name is this machine."""
        if host != HOST:
            raise OSError(f"{host} resolves to a private address")
        return "127.0.0.1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].decode()
            path = line.split(" ")[1]
            self.asked.append(path)
            name = urlsplit(path).path
            writer.write(self.raw.get(name) or _answer(json.dumps(self._document(name, path)).encode()))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _document(self, name: str, path: str) -> dict[str, Any]:
        base = f"https://{HOST}:{self.port}"
        makers: dict[str, Callable[[], dict[str, Any]]] = {
            "/.well-known/lnurlp/me": lambda: {
                "tag": "payRequest",
                "callback": f"{base}/callback?for=me",
                "minSendable": 1_000,
                "maxSendable": 100_000_000,
                "metadata": '[["text/plain","me"]]',
            },
            "/callback": lambda: self._invoiced(int(parse_qs(urlsplit(path).query)["amount"][0]), base),
            "/verify": lambda: self._verified(parse_qs(urlsplit(path).query)["hash"][0]),
        }
        return {**makers[name](), **self.says.get(name, {})}

    def _invoiced(self, amount_msat: int, base: str) -> dict[str, Any]:
        made = self.pocket.invoice(amount_msat, f"address {len(self.pocket.invoices)}")
        return {"pr": made.text, "routes": [], "verify": f"{base}/verify?hash={made.payment_hash}"}

    def _verified(self, payment_hash: str) -> dict[str, Any]:
        one = next(one for one in self.pocket.invoices if one.payment_hash == payment_hash)
        preimage = one.preimage if one.paid else None
        return {"status": "OK", "settled": one.paid, "preimage": preimage, "pr": one.text}


def _answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
