"""Files under a passphrase (docs/protocol/08-client-and-plugins.md §8.4)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hive_shared import sealed_file
from hive_shared.crypto import Secret
from hive_shared.sealed_file import (
    CHUNK,
    MAGIC,
    SealedFileError,
    SealedReader,
    SealedWriter,
    new_file,
    read_passphrase,
)

WORD = Secret(b"correct horse battery")
HEAD = len(MAGIC) + 16 + 7


def sealed(path: Path, *parts: bytes) -> Path:
    with new_file(path) as file:
        out = SealedWriter(file, WORD, os.urandom)
        for part in parts:
            out.write(part)
        out.finish()
    return path


def opened(path: Path, word: Secret = WORD) -> list[bytes]:
    with SealedReader(path, word) as reader:
        return list(reader.lines())


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_what_went_in_comes_out(tmp_path: Path, size: int) -> None:
    content = b"x" * size
    assert b"".join(opened(sealed(tmp_path / "f", content))) == content


def test_lines_survive_chunk_borders(tmp_path: Path) -> None:
    lines = [b"%d" % number * 50_001 for number in range(60)]
    assert opened(sealed(tmp_path / "f", *(line + b"\n" for line in lines))) == lines


def test_the_wrong_passphrase_is_a_sentence(tmp_path: Path) -> None:
    path = sealed(tmp_path / "f", b"secret")
    with pytest.raises(SealedFileError, match="the passphrase does not open it"):
        opened(path, Secret(b"wrong horse battery"))


@pytest.mark.parametrize("where", [3, len(MAGIC) + 2, HEAD - 1, HEAD + 1, HEAD + 30, -1])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, where: int) -> None:
    path = sealed(tmp_path / "f", b"a" * 500)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(SealedFileError):
        opened(path)


def test_chunks_cannot_be_dropped_doubled_swapped_or_added(tmp_path: Path) -> None:
    path = sealed(tmp_path / "f", b"a" * CHUNK, b"b" * CHUNK, b"c" * 10)
    data = path.read_bytes()
    piece = 4 + CHUNK + 16
    head, first, second, last = (
        data[:HEAD],
        *(data[HEAD + n * piece : HEAD + (n + 1) * piece] for n in range(3)),
    )
    for forged in (
        head + first + second,
        head + first,
        head,
        head + second + first + last,
        head + first + last,
        head + first + first + second + last,
        data + b"\0",
        data[:-1],
    ):
        path.write_bytes(forged)
        with pytest.raises(SealedFileError):
            opened(path)


def test_two_files_of_the_same_content_differ(tmp_path: Path) -> None:
    one, two = (sealed(tmp_path / name, b"same").read_bytes() for name in ("a", "b"))
    assert one[HEAD:] != two[HEAD:]


def test_the_parameters_are_those_of_the_sheet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def scrypt(_password: bytes, **more: object) -> bytes:
        seen.update(more)
        return bytes(32)

    monkeypatch.setattr(sealed_file.hashlib, "scrypt", scrypt)
    sealed(tmp_path / "f", b"x")
    assert (seen["n"], seen["r"], seen["p"], seen["dklen"]) == (2**17, 8, 1, 32)


def test_a_passphrase_file_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "word"
    path.write_bytes(b"correct horse battery\r\nsecond line\n")
    path.chmod(0o640)
    with pytest.raises(sealed_file.InvalidParams, match="chmod 600"):
        read_passphrase(path)
    path.chmod(0o600)
    assert read_passphrase(path) == WORD
