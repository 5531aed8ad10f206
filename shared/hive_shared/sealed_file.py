"""One file under a passphrase: backups and exports that leave the machine.

docs/protocol/08-client-and-plugins.md §8.4: scrypt(2^17, 8, 1) + AES-256-GCM. The content is cut into
chunks, each sealed with its number and a mark for the last one, so that files of any size are written and
read in little memory and no chunk can be dropped, doubled or moved (docs/decisions/0130). Layout:

    magic "HIVESEAL1\\n" · salt 16 · nonce prefix 7 · { length u32be · sealed chunk }*
    nonce of a chunk = prefix · number u32be · 1 for the last chunk, else 0;  AAD = magic · salt · prefix
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from .crypto import Secret
from .errors import InvalidParams

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC: Final = b"HIVESEAL1\n"
CHUNK: Final = 1 << 20
MIN_PASSPHRASE: Final = 8
_SECRET_FILE_MAX: Final = 4_096
_SALT, _PREFIX, _TAG = 16, 7, 16
_MAX_CHUNKS: Final = 1 << 32


class SealedFileError(InvalidParams):
    """The passphrase does not open the file, or the file is not ours, cut off or changed."""


def file_path(text: str) -> Path:
    """The path an operator typed. Raises InvalidParams for text that can name no file."""
    try:
        if not text or "\0" in text or len(os.fsencode(text)) > 4_095:
            raise ValueError
    except ValueError:
        raise InvalidParams(f"{_shown(Path(text))} can name no file") from None
    return Path(text)


def read_secret_file(path: Path, what: str) -> Secret:
    """A small plain file that only its owner can read; `what` it holds is for the sentences. Raises
    InvalidParams with what to do."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InvalidParams(f"the {what} file {_shown(path)} is not a plain file")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise InvalidParams(f"{_shown(path)} can be read by others; chmod 600 it first")
        with path.open("rb") as file:
            content = file.read(_SECRET_FILE_MAX + 1)
    except OSError as error:
        raise InvalidParams(f"the {what} file {_shown(path)} cannot be read: {error.strerror}") from None
    if len(content) > _SECRET_FILE_MAX:
        raise InvalidParams(f"the {what} file {_shown(path)} is too long: put nothing else into it")
    return Secret(content)


def read_passphrase(path: Path) -> Secret:
    """The first line of a file that only its owner can read. Raises InvalidParams with what to do."""
    line = first_line(read_secret_file(path, "passphrase")).reveal()
    if len(line) < MIN_PASSPHRASE:
        raise InvalidParams(
            f"the passphrase in {_shown(path)} has {len(line)} bytes; at least {MIN_PASSPHRASE} please"
        )
    return Secret(line)


def first_line(secret: Secret) -> Secret:
    """Without the line's end and what follows it."""
    return Secret(secret.reveal().split(b"\n", 1)[0].rstrip(b"\r"))


def new_file(path: Path) -> BinaryIO:
    """A new file 0600 for writing. Raises InvalidParams for a relative path or one that is taken."""
    if not path.is_absolute():
        raise InvalidParams(
            f"path {_shown(path)} is relative; give an absolute one, the node has its own place"
        )
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise InvalidParams(
            f"{_shown(path)} exists already; nothing is overwritten, give another name"
        ) from None
    except OSError as error:
        raise InvalidParams(f"{_shown(path)} cannot be written: {error.strerror}") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a whole file, hex. Blocking; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SealedWriter:
    """Writes a sealed file; the last chunk is written by `finish`, without it the file does not open."""

    def __init__(self, file: BinaryIO, passphrase: Secret, random_bytes: Callable[[int], bytes]) -> None:
        salt, self._nonce_prefix = random_bytes(_SALT), random_bytes(_PREFIX)
        self._head = MAGIC + salt + self._nonce_prefix
        self._key = _cipher(passphrase, salt)
        self._file, self._number = file, 0
        self._waiting = bytearray()
        file.write(self._head)

    def write(self, data: bytes) -> None:
        """Add content."""
        self._waiting += data
        # One chunk is always held back: only the last one may carry the mark.
        while len(self._waiting) > CHUNK:
            self._seal(bytes(self._waiting[:CHUNK]), last=False)
            del self._waiting[:CHUNK]

    def finish(self) -> None:
        """Seal what is left as the last chunk."""
        self._seal(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _seal(self, data: bytes, *, last: bool) -> None:
        sealed = self._key.encrypt(_nonce(self._nonce_prefix, self._number, last), data, self._head)
        self._file.write(len(sealed).to_bytes(4, "big") + sealed)
        self._number += 1


class Out:
    """What `written` hands out; `sha256` (hex) of the whole file is there once it is closed."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write
        self.sha256 = ""


@contextmanager
def written(path: Path, passphrase: Secret | None, random_bytes: Callable[[int], bytes]) -> Iterator[Out]:
    """A new file at `path`, sealed unless `passphrase` is None; on disk when the block ends, gone when it
    fails. Blocking. Raises InvalidParams when it cannot be made or written.
    """
    file = new_file(path)
    try:
        with file:
            sealed = None if passphrase is None else SealedWriter(file, passphrase, random_bytes)
            out = Out(file.write if sealed is None else sealed.write)
            yield out
            if sealed is not None:
                sealed.finish()
            file.flush()
            os.fsync(file.fileno())
        out.sha256 = file_digest(path)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InvalidParams(f"{_shown(path)} cannot be written: {error.strerror}") from None
        raise


class SealedReader:
    """Reads a sealed file line by line. Use as a context manager; blocking (scrypt takes a second)."""

    def __init__(self, path: Path, passphrase: Secret) -> None:
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise InvalidParams(f"{_shown(path)} cannot be read: {error.strerror}") from None
        self._name = _shown(path)
        self._head = self._file.read(len(MAGIC) + _SALT + _PREFIX)
        if not self._head.startswith(MAGIC) or len(self._head) != len(MAGIC) + _SALT + _PREFIX:
            self._file.close()
            raise SealedFileError(f"{_shown(path)} is no file that this plugin sealed")
        self._nonce_prefix = self._head[-_PREFIX:]
        self._key = _cipher(passphrase, self._head[len(MAGIC) : -_PREFIX])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def lines(self) -> Iterator[bytes]:
        """The content's lines without their ends. Raises SealedFileError at the first chunk that is wrong."""
        rest = b""
        for chunk in self._chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def _chunks(self) -> Iterator[bytes]:
        for number in range(_MAX_CHUNKS):
            size = int.from_bytes(self._file.read(4), "big")
            sealed = self._file.read(size) if _TAG <= size <= CHUNK + _TAG else b""
            if not sealed or len(sealed) != size:
                raise SealedFileError(f"{self._name} is cut off or damaged in chunk {number}")
            plain = self._open(number, sealed, last=False)
            last = plain is None
            if plain is None:
                plain = self._open(number, sealed, last=True)
            if plain is None:
                what = "it was changed" if number else "the passphrase does not open it, or it was changed"
                raise SealedFileError(f"{self._name}: {what} (chunk {number})")
            if last and self._file.read(1):
                raise SealedFileError(f"{self._name} goes on behind its end: it was changed")
            yield plain
            if last:
                return

    def _open(self, number: int, sealed: bytes, *, last: bool) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        try:
            return self._key.decrypt(_nonce(self._nonce_prefix, number, last), sealed, self._head)
        except InvalidTag:
            return None


def _shown(path: Path) -> str:
    # A file's end tells more of it than its beginning; control characters must not reach a terminal.
    text = ascii(str(path))[1:-1]
    return text if len(text) <= 60 else f"...{text[-57:]}"


def _cipher(passphrase: Secret, salt: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    # 128 MiB are what these parameters need; hashlib refuses more than 32 MiB unless told.
    key = hashlib.scrypt(passphrase.reveal(), salt=salt, n=1 << 17, r=8, p=1, maxmem=160 << 20, dklen=32)
    return AESGCM(key)


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")
