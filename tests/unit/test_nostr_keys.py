"""Text forms of Nostr keys, against NIP-19's examples and nostr-sdk."""

from __future__ import annotations

import os
import subprocess
import sys

import nostr_sdk
import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.keys import is_pubkey, npub_decode, npub_encode, nsec_decode, nsec_encode, parse_pubkey

HEX = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"
NPUB = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
NSEC_HEX = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"


def test_nip19_examples() -> None:
    assert npub_encode(HEX) == NPUB and npub_decode(NPUB) == HEX
    assert nsec_encode(Secret(bytes.fromhex(NSEC_HEX))) == NSEC
    assert nsec_decode(NSEC) == Secret(bytes.fromhex(NSEC_HEX))


def test_same_forms_as_an_independent_client() -> None:
    for _ in range(20):
        secret = Secret(os.urandom(32))
        theirs = nostr_sdk.Keys.parse(nsec_encode(secret))
        assert theirs.public_key().to_hex() == xonly_pubkey(secret)
        assert theirs.public_key().to_bech32() == npub_encode(xonly_pubkey(secret))


@pytest.mark.parametrize(
    "form", [NPUB, NPUB.upper(), HEX, HEX.upper(), f"did:nostr:{HEX}", f"nostr:{NPUB}", f" {HEX} "]
)
def test_every_accepted_form_gives_the_same_key(form: str) -> None:
    assert parse_pubkey(form) == HEX


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("", "not a Nostr public key"),
        ("npub1" + "q" * 58, "checksum"),
        (NPUB[:-1], "checksum"),
        (NPUB[:-1] + "z", "checksum"),
        (NPUB + NPUB, "checksum"),
        (
            "nprofile1qqsrhuxx8l9ex335q7he0f09aej04zpazpl0ne2cgukyawd24mayt8gpp4mhxue69uhhytnc9e3k7mgpz4",
            "public key",
        ),
        (NSEC, "secret key"),
        ("f" * 64, "point"),
        (HEX[:-1], "64 hex"),
        (f"did:cid:{HEX}", "not a Nostr public key"),
    ],
)
def test_other_texts_are_refused_with_a_sentence(form: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_pubkey(form)


def test_a_secret_is_never_quoted_in_an_error() -> None:
    for text in (NSEC, NSEC[:-1] + "q"):
        with pytest.raises(ValueError) as refused:
            parse_pubkey(text)
        assert text not in str(refused.value)
    with pytest.raises(ValueError, match="expected nsec") as wrong:
        nsec_decode(NPUB)
    assert NPUB not in str(wrong.value)


def test_a_secret_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="usable"):
        nsec_decode(nsec_encode(Secret(bytes(32))))


def test_is_pubkey_is_exact() -> None:
    assert is_pubkey(HEX)
    assert not any(map(is_pubkey, (HEX.upper(), HEX + "\n", HEX[:-1], None, 5, HEX.encode())))


def test_showing_an_npub_does_not_import_the_slow_parts_of_pynostr() -> None:
    code = (
        "import sys; from hive_shared.nostr.keys import npub_encode; "
        f"assert npub_encode({HEX!r}) == {NPUB!r}; "
        "assert 'pynostr.key' not in sys.modules and 'websockets' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
