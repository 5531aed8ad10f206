"""A profile in one sealed file, and back (docs/protocol/11-advisor-kit.md §12).

The file is hive_shared.sealed_file under the passphrase of the profile: a line with the manifest, then the
parts in pieces. It is made beside a process that has the profile open.

An old copy that is restored does no harm: what was signed and never left is a draft again, numbers of later
commands come from the clock, what the guard counted since the copy is unknown and so counts as used up for a
day, receipts and missed pushes are asked for anew.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from hive_shared.canonical import decode_object
from hive_shared.crypto import Secret
from hive_shared.errors import Conflict, Internal, InvalidParams
from hive_shared.sealed_file import SealedFileError, SealedReader, new_file, written
from hive_shared.store import StoreError, StoreLocked, copy_of, held_closed

from hive_advisor.advisor import Advisor
from hive_advisor.config import load_config
from hive_advisor.identity import Identity, read_identity, read_public
from hive_advisor.paths import ProfilePaths
from hive_advisor.private_files import replace_file

VERSION: Final = 1
_PIECE: Final = 48 * 1_024
_MOST_BYTES: Final = 4 << 30
_LINE: Final = 96 * 1_024
DATABASE: Final = "advisor.db"
IDENTITY: Final = "identity.json"


class Found(msgspec.Struct, frozen=True):
    """What a backup holds: when it was made, whose it is, SHA-256 and bytes by part."""

    made_at: int
    npub: str
    parts: Mapping[str, tuple[str, int]]


def create(paths: ProfilePaths, target: Path, passphrase: str, now: int) -> Found:
    """Write a new sealed file; ``passphrase`` is the profile's. Blocking.

    Raises InvalidParams (the file exists, cannot be written, no identity), Internal (database).
    """
    npub = str(read_public(paths.identity)["npub"])
    with _workplace(paths, "backup") as place:
        copy = place / DATABASE
        try:
            if paths.database.exists():
                copy_of(paths.database, copy)
        except StoreError as error:
            raise Internal(f"the database of profile {paths.profile!r}: {error}") from error
        files = {name: file for name, file in {DATABASE: copy, **_plain(paths)}.items() if file.exists()}
        parts = {name: _digest(file) for name, file in files.items()}
        found = Found(now, npub, parts)
        with written(target.absolute(), Secret(passphrase.encode()), os.urandom) as out:
            out.write(_line({"v": VERSION, "made_at": now, "npub": npub, "parts": parts}))
            for name, file in files.items():
                with file.open("rb") as source:
                    while piece := source.read(_PIECE):
                        out.write(_line({"part": name, "data": base64.b64encode(piece).decode()}))
    return found


def verify(source: Path, passphrase: str) -> Found:
    """Read all of it and hold it against its manifest. Raises InvalidParams for a file that is not whole."""
    return _read(source, passphrase, lambda name: None)


async def restore(
    paths: ProfilePaths,
    source: Path,
    passphrase: str,
    *,
    replace_all: bool,
    now: Callable[[], int] = lambda: int(time.time()),
) -> dict[str, Any]:
    """Put a backup in the place of the profile's database; identity and settings only where there are none.

    Raises InvalidParams (file), Conflict (another identity, a database that is there without
    ``replace_all``, a process that has the profile open), Internal.
    """
    with _workplace(paths, "restore") as place:
        found = _read(source, passphrase, lambda name: place / name)
        check_fits(paths, found)
        if paths.database.exists() and not replace_all:
            raise Conflict(
                f"profile {paths.profile!r} has a database; add --replace to put it aside, or take"
                " another --profile"
            )
        identity = read_identity(place / IDENTITY, passphrase)
        paths.make()
        settled = await _settled(dataclasses.replace(paths, data_dir=place), identity, found.made_at, now)
        try:
            with held_closed(paths.database):
                aside = _exchange(paths, place, now())
        except StoreLocked as error:
            raise Conflict(f"profile {paths.profile!r} is in use by another hive-advisor process") from error
    return {
        "made_at": found.made_at,
        "npub": found.npub,
        **settled,
        "put_aside": None if aside is None else str(aside),
    }


def check_fits(paths: ProfilePaths, found: Found) -> None:
    """Raises Conflict when the profile has another identity, InvalidParams for a backup without one."""
    if not {DATABASE, IDENTITY} <= found.parts.keys():
        raise InvalidParams("the backup holds no database and identity: there is nothing to go on with")
    if paths.identity.exists() and (here := str(read_public(paths.identity)["npub"])) != found.npub:
        raise Conflict(
            f"profile {paths.profile!r} is {here}, the backup is of {found.npub}; take another --profile"
        )


async def _settled(
    staged: ProfilePaths, identity: Identity, made_at: int, now: Callable[[], int]
) -> dict[str, Any]:
    """Open the copy where it lies and make it one that can go on."""
    config = load_config(staged.config, None)
    async with Advisor.open(staged, identity, config, online=False, now=now) as kit:
        drafts = await kit.plans.expire(unsent_s=0)
        clients = await kit.guard.lose_count()
        await kit.record.note_restored(made_at)
        await kit.ecash.note_restored()
        await kit.market.contracts.note_restored()
    return {"drafts": drafts, "clients": clients}


def _exchange(paths: ProfilePaths, place: Path, now: int) -> Path | None:
    """The new database in the old one's place, which stays beside it; settings where there are none."""
    aside = None
    if paths.database.exists():
        aside = paths.database.with_name(f"{paths.database.name}.before-{now}")
        # With its log: what was committed last may stand there only.
        for tail in ("-wal", "-shm", ""):
            file = paths.database.with_name(paths.database.name + tail)
            if file.exists():
                file.rename(aside.with_name(aside.name + tail))
    (place / DATABASE).rename(paths.database)
    for name, file in _plain(paths).items():
        if (place / name).exists() and not file.exists():
            replace_file(file, (place / name).read_bytes())
    return aside


def _plain(paths: ProfilePaths) -> dict[str, Path]:
    files = (paths.identity, paths.config, paths.guard, paths.nodes, paths.mcp_allow)
    return {file.name: file for file in files}


def _read(source: Path, passphrase: str, place: Callable[[str], Path | None]) -> Found:
    """Every part is written to where `place` says and held against the manifest."""
    digests: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    try:
        with SealedReader(source, Secret(passphrase.encode())) as reader, ExitStack() as stack:
            lines = reader.lines()
            found = _manifest(decode_object(next(lines, b""), max_bytes=_LINE))
            files = {
                name: stack.enter_context(new_file(target))
                for name in found.parts
                if (target := place(name)) is not None
            }
            for line in lines:
                name, piece = _piece(line)
                if name not in found.parts or sizes.get(name, 0) + len(piece) > found.parts[name][1]:
                    raise SealedFileError(f"{source.name}: part {name[:40]!a} is not as its manifest says")
                digests.setdefault(name, hashlib.sha256()).update(piece)
                sizes[name] = sizes.get(name, 0) + len(piece)
                if name in files:
                    files[name].write(piece)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidParams(f"{source.name} is no backup of an advisor's profile: {error}") from error
    for name, (digest, size) in found.parts.items():
        if size and (name not in digests or (digests[name].hexdigest(), sizes[name]) != (digest, size)):
            raise SealedFileError(f"{source.name}: part {name} is not as its manifest says")
    return found


def _manifest(document: Mapping[str, Any]) -> Found:
    if document.get("v") != VERSION:
        raise InvalidParams("the file is no backup of an advisor's profile of this version")
    parts = {str(name): (str(digest), int(size)) for name, (digest, size) in document["parts"].items()}
    known = {DATABASE, IDENTITY, "config.toml", "guard.toml", "nodes.toml", "mcp-allow.json"}
    if not parts.keys() <= known or sum(size for _, size in parts.values()) > _MOST_BYTES:
        raise InvalidParams("the backup names parts that this version does not know")
    return Found(int(document["made_at"]), str(document["npub"]), parts)


def _piece(line: bytes) -> tuple[str, bytes]:
    document = decode_object(line, max_bytes=_LINE)
    return str(document["part"]), base64.b64decode(str(document["data"]), validate=True)


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _digest(file: Path) -> tuple[str, int]:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest(), file.stat().st_size


@contextmanager
def _workplace(paths: ProfilePaths, name: str) -> Iterator[Path]:
    """A directory of mode 0700 inside the profile's, gone afterwards."""
    path = paths.data_dir.absolute() / f".{name}-{os.getpid()}"
    paths.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        with suppress(OSError):
            shutil.rmtree(path)
