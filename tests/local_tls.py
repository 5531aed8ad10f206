"""TLS servers on this machine that nobody vouches for, unless a test trusts their authority."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from hive_devnet.certificates import make_certificates


@dataclass(frozen=True)
class LocalTls:
    """A certificate of `localhost` with its key and the authority that signed it, in files."""

    directory: Path

    @classmethod
    def made(cls, directory: Path) -> LocalTls:
        """Fresh files in a directory."""
        make_certificates(directory, "localhost")
        return cls(directory)

    @property
    def authority(self) -> Path:
        """What a client has to trust."""
        return self.directory / "ca.pem"

    def server(self) -> ssl.SSLContext:
        """The server's side."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "server.pem", self.directory / "server-key.pem")
        return context

    def trust(self) -> ssl.SSLContext:
        """The side of a client that trusts the authority."""
        return ssl.create_default_context(cafile=str(self.authority))
