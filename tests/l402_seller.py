"""An advisor's web service that sells access by the kit's L402 gate, over TLS on this machine, for tests."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import Counter
from pathlib import Path

from coincurve import PrivateKey
from hive_advisor.l402_gate import L402Gate
from hive_devnet.certificates import make_certificates
from hive_devnet.embedded import bolt11 as codec
from hive_shared.crypto import Secret
from hive_shared.errors import HiveError
from hive_shared.public_web import PublicWeb
from payment_world import SHOP, NodeWithPayments
from pipeline_world import NOW

HOST = "api.example.org"
KEY = PrivateKey((13).to_bytes(32, "big"))
BODY = b'{"fees":"up"}'


class Seller:
    """Sells `/paid` for `price` sat; `/free` costs nothing, and access to `/a/..` or `/b/..` is good for no
    other path of the three. `caveats` are those of new tokens, `scheme` and
    `challenge` what the 402 says, `other_hash` has the invoice ask for another payment than the macaroon's.
    `refuses` is how many of the next tokens are answered 401. `body` and `status` answer who has paid. The
    node to which its invoices are known is `node`."""

    def __init__(self, directory: Path) -> None:
        make_certificates(directory, HOST)
        self.trust = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
        self.node = NodeWithPayments()
        self.reset(self.node)

    def reset(self, node: NodeWithPayments) -> None:
        """As new, for another node."""
        self.node, self.price, self.now = node, 50, NOW
        self.caveats: tuple[str, ...] = ("max_actions=9",)
        self.scheme, self.challenge, self.other_hash = "L402", "", False
        self.refuses, self.body, self.status, self.extra = 0, BODY, 200, ""
        self.asked: list[tuple[str, str]] = []
        self.secrets: set[str] = set()
        self.made = 0
        self.uses: Counter[str] = Counter()
        self.sold_for: dict[str, str] = {}
        self.gate = L402Gate(
            Secret(b"k" * 32),
            invoice=self._invoice,
            take=self._take,
            random_bytes=lambda size: bytes([self.made]) * size,
            now=lambda: self.now,
        )

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        self._server.close()

    @property
    def place(self) -> str:
        """Host and port, as the operator names it."""
        return f"{HOST}:{self.port}"

    def url(self, path: str = "/paid?days=7") -> str:
        """A page of it."""
        return f"https://{self.place}{path}"

    def web(self) -> PublicWeb:
        """The node's way here: the name service of the test says that the server is this machine."""

        async def resolve(host: str, _port: int) -> str:
            assert host == HOST
            return "127.0.0.1"

        return PublicWeb(trust=self.trust, resolve=resolve)

    @property
    def shown(self) -> list[str]:
        """The tokens that requests came with, in order; empty for one without."""
        return [header for _, header in self.asked]

    async def _invoice(self, amount_sats: int, description: str) -> str:
        self.made += 1
        preimage = hashlib.sha256(b"access%d" % self.made).digest()
        digest = hashlib.sha256(preimage).hexdigest()
        made = codec.Invoice(
            payee=KEY.public_key.format().hex(),
            payment_hash=digest,
            payment_secret="cd" * 32,
            created_at=NOW,
            amount_msat=amount_sats * 1_000,
            description=description,
        )
        text = codec.encode_invoice(made, lambda hashed: KEY.sign_recoverable(hashed, hasher=None))
        self.secrets.add(preimage.hex())
        self.node.asked[text] = {
            **{"type": "bolt11 invoice", "valid": True, "payee": SHOP, "payment_hash": digest},
            **{
                "created_at": NOW,
                "expiry": 3_600,
                "amount_msat": made.amount_msat,
                "preimage": preimage.hex(),
            },
        }
        if self.other_hash:
            self.node.asked[text]["payment_hash"] = "0f" * 32
        return text

    async def _take(self, token_id: str, limit: int) -> bool:
        if self.uses[token_id] >= limit:
            return False
        self.uses[token_id] += 1
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(
                line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in lines[1:] if line
            )
            path, authorization = lines[0].split(" ")[1], headers.get("authorization", "")
            self.asked.append((path, authorization))
            writer.write(await self._answer(path, authorization))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, authorization: str) -> bytes:
        if path.startswith("/free"):
            return _http(self.status, self.body, self.extra)
        if authorization:
            if self.refuses:
                self.refuses -= 1
                return _http(401, b"who are you?")
            try:
                await self.gate.verify(authorization)
                macaroon = authorization.split(" ")[1].split(":", maxsplit=1)[0]
                if self.sold_for[macaroon] != path[:3]:
                    return _http(401, b"not for this")
                return _http(self.status, self.body, self.extra)
            except HiveError:
                pass
        challenge = await self.gate.challenge(self.price, self.caveats)
        self.secrets.add(challenge.macaroon)
        self.sold_for[challenge.macaroon] = path[:3]
        said = self.challenge or challenge.header.replace("L402", self.scheme, 1)
        return _http(402, b"pay first", f"WWW-Authenticate: Basic realm=x\r\nWWW-Authenticate: {said}\r\n")


def _http(status: int, body: bytes, extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{extra}\r\n".encode() + body
