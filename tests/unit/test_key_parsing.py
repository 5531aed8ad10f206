"""Reading a Nostr key that the operator brings: what is taken, and what is said of the rest, unshown
(Protocol 08 §5.2 `hive-comms-import-key`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cl_hive_comms.services.identity_service import parse_key, read_key_file
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import InvalidParams
from hive_shared.nostr.keys import npub_encode, nsec_encode

KEY = Secret(bytes(range(1, 33)))
HEX = KEY.reveal().hex()
NSEC = nsec_encode(KEY)
ORDER = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"


@pytest.mark.parametrize("text", [NSEC, f"  {NSEC}\n", NSEC.upper(), HEX, HEX.upper(), f"{HEX}\r\n"])
def test_nsec_and_hex_are_taken_with_the_white_space_of_a_file(text: str) -> None:
    assert parse_key(Secret(text.encode())) == KEY


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (NSEC[:-1] + ("q" if NSEC[-1] != "q" else "p"), "checksum"),
        (NSEC[:-3], "checksum"),
        (NSEC + "q", "checksum"),
        ("nsec1" + "é" * 58, "checksum"),
        (HEX[:-1], "63 hex digits"),
        (HEX + "00", "66 hex digits"),
        ("0x" + HEX, "neither nsec1... nor 64 hex"),
        ("00" * 32, "outside the curve"),
        (ORDER, "outside the curve"),
        (npub_encode(xonly_pubkey(KEY)), "public key"),
        (
            "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623",
            "encr",
        ),
        ("abandon " * 11 + "about", "recovery phrase"),
        (f"{HEX} {HEX}", "several words"),
        ("secret", "neither nsec1... nor 64 hex"),
    ],
)
def test_what_is_no_key_is_refused_with_the_reason_and_never_shown(text: str, word: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        parse_key(Secret(text.encode()))
    assert word in str(caught.value)
    assert len(text.strip()) < 12 or text.strip()[8:24].lower() not in str(caught.value).lower()
    assert caught.value.__cause__ is None


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidParams, match="not text"):
        parse_key(Secret(b"\xff\xfe" + bytes(30)))


def test_a_key_file_must_be_private_plain_and_short(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(NSEC + "\n")
    file.chmod(0o640)
    with pytest.raises(InvalidParams, match="chmod 600"):
        read_key_file(file)
    file.chmod(0o600)
    assert read_key_file(file) == KEY
    file.write_text(NSEC + "\n" * 5_000)
    with pytest.raises(InvalidParams, match="too long"):
        read_key_file(file)
    with pytest.raises(InvalidParams, match="No such file"):
        read_key_file(tmp_path / "none")
    with pytest.raises(InvalidParams, match="not a plain file"):
        read_key_file(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    # A pipe nobody writes to would hold the reader for ever.
    with pytest.raises(InvalidParams, match="not a plain file"):
        read_key_file(pipe)
