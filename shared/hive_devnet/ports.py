"""TCP ports of this machine for servers that are about to be started."""

from __future__ import annotations

import socket
from collections import deque

_KEPT = 64
_kept: deque[socket.socket] = deque()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody else is given while the next 64 are asked
    for.

    It stays bound here without listening: the kernel hands it to nobody who asks for any port, and a server
    that is told to listen on it may (SO_REUSEADDR, as asyncio, uvicorn and lightningd set it), also again
    after it was down. Looked up and let go it could be another test's by the time a mint has started.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _kept.append(held)
    if len(_kept) > _KEPT:
        _kept.popleft().close()
    return int(held.getsockname()[1])
