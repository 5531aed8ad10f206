"""The sockets of an engine in the file system: where they are, who is at the other end, frames
(docs/protocol/11-advisor-kit.md §3, §13).
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from hive_shared.errors import Conflict, InvalidParams

from hive_advisor.domain.engine_frames import MAX_FRAME, AnyFrame, Frame, decoded, encoded

_LENGTH: Final = struct.Struct(">I")
_CREDENTIALS: Final = struct.Struct("3i")
_LONGEST_ADDRESS: Final = 100
"""Bytes of a path that fits into the address of a socket on every system."""
_BACKLOG: Final = 64


class Peer(msgspec.Struct, frozen=True):
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """Who connected; the kernel keeps that of the moment of connecting."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(raw))


class Channel:
    """Frames over one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def backlog(self) -> int:
        """Bytes that the other end has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    async def receive(self) -> AnyFrame | None:
        """The next frame; None when the other end is gone. Raises InvalidParams for what is no frame: nothing
        that comes after it can be read."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME:
                raise InvalidParams(f"a frame of {length} bytes; {MAX_FRAME} are taken", reason="too_large")
            return decoded(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None

    def post(self, frame: Frame) -> None:
        """Send without waiting for the other end. Raises InvalidParams for a frame that is too long."""
        body = encoded(frame)
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(body)) + body)

    async def send(self, frame: Frame) -> None:
        """Send, and wait while the other end is slow. That it is gone, ``receive`` tells."""
        self.post(frame)
        with suppress(OSError):
            await self._writer.drain()

    def close(self) -> None:
        """What was posted still goes out."""
        self._writer.close()

    def abort(self) -> None:
        """What was posted is dropped."""
        self._writer.transport.abort()


async def connect(path: Path) -> Channel | None:
    """A connection to the socket at ``path``; None when nobody listens there. Raises PermissionError."""
    try:
        with _address(path) as address:
            return Channel(*await asyncio.open_unix_connection(address))
    except PermissionError:
        raise
    except OSError:
        return None


def runtime_dir(profile: str) -> Path | None:
    """``$XDG_RUNTIME_DIR/hive-advisor/PROFILE``, made if need be; None when there is no such directory that
    is ours alone."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if not given.startswith("/"):
        return None
    directory = Path(given) / "hive-advisor" / profile
    try:
        for each in (directory.parent, directory):
            each.mkdir(mode=0o700, exist_ok=True)
            found = each.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                return None
    except OSError:
        return None
    return directory


def check_directory(directory: Path, name: str) -> None:
    """Raises InvalidParams unless only we or root can put sockets into ``directory``; ``name`` is the setting
    that names it."""
    try:
        found = directory.stat()
    except OSError as error:
        raise InvalidParams(f"{name}: {directory} cannot be used: {error.strerror}") from error
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
        raise InvalidParams(
            f"{name}: {directory} must belong to you or root, and nobody else may write in it"
        )


async def listening(path: Path, mode: int, group: int | None) -> socket.socket:
    """A listening socket at ``path`` with this mode and group. What a process that is gone left there is
    replaced. Raises Conflict when somebody listens there, InvalidParams when it cannot be made."""
    try:
        found = await connect(path)
    except PermissionError:
        found = None  # the one who left it was somebody else; that the place can be taken shows below
    if found is not None:
        found.abort()
        raise Conflict(f"another process listens on {path}")
    # Nobody reaches it before it has its mode: it gets its name last.
    unnamed = path.with_name(f".{path.name}.{os.getpid()}")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        unnamed.unlink(missing_ok=True)
        with _address(unnamed) as address:
            made.bind(address)
        if group is not None:
            os.chown(unnamed, -1, group)
        unnamed.chmod(mode)
        made.listen(_BACKLOG)
        made.setblocking(False)
        unnamed.rename(path)
    except OSError as error:
        made.close()
        unnamed.unlink(missing_ok=True)
        raise InvalidParams(f"no socket can be made at {path}: {error.strerror}") from error
    return made


def name_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of what stands at ``path`` itself; None when nothing does."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def point(link: Path, target: Path) -> None:
    """Make ``link`` a symbolic link to ``target``, whatever was there. Raises OSError."""
    unnamed = link.with_name(f".{link.name}.{os.getpid()}")
    unnamed.unlink(missing_ok=True)
    unnamed.symlink_to(target)
    unnamed.rename(link)


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """An address for ``path`` that is short enough."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
