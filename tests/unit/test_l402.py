"""Macaroons of paid access: to the byte of the sheet, only narrower, and nothing hostile gets through
(docs/protocol/03-escrow-and-payments.md §7.5)."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hive_shared import l402
from hive_shared.crypto import Secret
from hive_shared.errors import PaymentFailed
from hive_shared.l402 import Identifier, Macaroon
from hive_shared.registry import Tier
from pymacaroons import Macaroon as Independent
from pymacaroons import Verifier

ROOT = Secret(bytes(range(32)))
IDENTIFIER = Identifier(b"\xaa" * 32, b"\xbb" * 32)
CAVEATS = (
    "node=02" + "11" * 32,
    "agent=" + "22" * 32,
    "tier=standard",
    "max_actions=1000",
    "expires=1900000000",
)
SIGNATURE = "fb0dcfc64c100512cee9e16416f5710b82ec42b008aecdcc8f0d8a77e40c72d3"


def made() -> Macaroon:
    return l402.mint(ROOT, IDENTIFIER, CAVEATS)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_vector_of_the_sheet() -> None:
    macaroon = made()
    assert macaroon.signature.reveal().hex() == SIGNATURE
    assert len(macaroon.encode()) == 314


def test_an_independent_library_reads_and_verifies_ours() -> None:
    theirs = Independent.deserialize(base64.urlsafe_b64encode(made().encode()).decode().rstrip("="))
    assert theirs.signature == SIGNATURE and theirs.location == l402.LOCATION
    verifier = Verifier()
    for caveat in CAVEATS:
        verifier.satisfy_exact(caveat)
    assert verifier.verify(theirs, ROOT.reveal())


def test_we_read_and_verify_what_an_independent_library_narrowed() -> None:
    theirs = Independent.deserialize(base64.urlsafe_b64encode(made().encode()).decode().rstrip("="))
    theirs.add_first_party_caveat("max_actions = 5")
    read = l402.decode(theirs.serialize())
    assert l402.check_signature(read, ROOT)
    assert l402.rights_of(read.caveats).max_actions == 5
    assert read.encode() == made().with_caveats("max_actions = 5").encode()


@pytest.mark.parametrize("urlsafe", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_both_alphabets_with_and_without_padding(urlsafe: bool, padded: bool) -> None:
    # 0xfb 0xff brings both differing characters into the text.
    macaroon = l402.mint(ROOT, Identifier(b"\xfb\xff" * 16, b"\xef\xbe" * 16), CAVEATS[:1])
    raw = macaroon.encode()
    text = (base64.urlsafe_b64encode(raw) if urlsafe else base64.b64encode(raw)).decode()
    assert l402.decode(text if padded else text.rstrip("=")) == macaroon


def test_every_flipped_bit_is_refused_or_breaks_the_signature() -> None:
    raw = made().encode()
    for at in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[at // 8] ^= 1 << at % 8
        try:
            read = l402.decode(text_of(bytes(flipped)))
        except PaymentFailed as refused:
            assert refused.symbol == "payment_invalid"
            continue
        # The location is a hint that no signature covers; nothing here reads it.
        in_location = 3 <= at // 8 < 7
        assert l402.check_signature(read, ROOT) == in_location, at


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not base64"),
        (b"\x01" + made().encode()[1:], "version 2"),
        (made().encode() + b"\0", "after its signature"),
        (made().encode()[:-1], "in the middle"),
        (made().encode()[:40], "in the middle"),
        (b"\x02\x02\x03abc\0\0\x06\x20" + b"s" * 32, "identifier"),
        (b"\x02\x02\x42" + IDENTIFIER.pack() + b"\0\0\x06\x04abcd", "32 bytes"),
        (
            b"\x02\x02\x42" + IDENTIFIER.pack() + b"\0\x02\x03a=b\x04\x01v\0\0\x06\x20" + b"s" * 32,
            "third-party",
        ),
        (b"\x02\x02\x42" + IDENTIFIER.pack() + b"\0\x02\x03a=\xff\0\0\x06\x20" + b"s" * 32, "not text"),
        (b"\x02\x02\x42" + IDENTIFIER.pack() + b"\0\x02\x03a=\n\0\0\x06\x20" + b"s" * 32, "control"),
        (b"\x02\x02\xc2\x00" + IDENTIFIER.pack() + b"\0\0\x06\x20" + b"s" * 32, "longer form"),
        (b"\x02\x02\xff\xff\xff\xff\x7f" + IDENTIFIER.pack(), "too long"),
        (b"\x02\x02\x42" + IDENTIFIER.pack() + b"\0" + b"\x02\x03a=b\0" * 65 + b"\0", "caveats"),
        (b"\x02" * 9_000, "longer than"),
    ],
)
def test_hostile_bytes_are_refused_with_their_own_reason(data: bytes, why: str) -> None:
    with pytest.raises(PaymentFailed, match=why):
        l402.decode(text_of(data))


@pytest.mark.parametrize("text", ["A", "AB CD", "é", "AA==A", "=", "A" * 20_000])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(PaymentFailed):
        l402.decode(text)


def test_caveats_say_what_is_left() -> None:
    rights = l402.rights_of((*CAVEATS, "schemas=hive:monitor/*, hive:fee-policy/v1", "max_danger = 4"))
    assert (rights.node, rights.agent) == ("02" + "11" * 32, "22" * 32)
    assert (rights.tier, rights.max_actions, rights.max_danger) == (Tier.STANDARD, 1000, 4)
    assert rights.schemas == (("hive:monitor/*", "hive:fee-policy/v1"),)
    assert rights.expires == 1_900_000_000


def test_repeats_only_narrow() -> None:
    narrowed = made().with_caveats(
        "expires=1800000000", "tier=monitor", "max_actions=3", "node=02" + "11" * 32
    )
    rights = l402.rights_of(narrowed.caveats)
    assert (rights.expires, rights.tier, rights.max_actions) == (1_800_000_000, Tier.MONITOR, 3)
    assert l402.check_signature(narrowed, ROOT) and not l402.check_signature(narrowed, Secret(b"x" * 32))


@pytest.mark.parametrize(
    "caveat",
    [
        *("expires=1900000001", "max_actions=1001", "tier=admin", "agent=" + "33" * 32),
        *("paid=yes", "Expires=1", "expires", "expires=", "=1", "max_actions=-1", "max_actions=1e3"),
        *(
            "max_actions=007",
            "max_danger=9999999999999999",
            "tier=root",
            "schemas=a,,b",
            "",
            "x" * 5_000 + "=1",
        ),
    ],
)
def test_what_widens_or_cannot_be_read_is_refused(caveat: str) -> None:
    with pytest.raises(PaymentFailed) as refused:
        made().with_caveats(caveat)
    assert refused.value.symbol == "payment_invalid"


def test_a_preimage_belongs_to_its_payment() -> None:
    preimage = "07" * 32
    macaroon = l402.mint(
        ROOT, Identifier(hashlib.sha256(bytes.fromhex(preimage)).digest(), b"t" * 32), CAVEATS
    )
    l402.check_preimage(macaroon, preimage)
    for wrong in ("08" * 32, "07" * 31, "07" * 32 + "00", "0G" * 32, ""):
        with pytest.raises(PaymentFailed):
            l402.check_preimage(macaroon, wrong)


def test_root_keys_differ_by_token() -> None:
    key = Secret(b"k" * 32)
    assert l402.root_key(key, b"a" * 32) != l402.root_key(key, b"b" * 32)


def test_headers_there_and_back() -> None:
    text, preimage = made().text(), "07" * 32
    assert l402.read_challenge(l402.challenge_header(text, "lnbc1x")) == (text, "lnbc1x")
    assert l402.read_challenge(f'LSAT token="{text}", version="0", invoice="lnbc1x"') == (text, "lnbc1x")
    assert l402.read_authorization(l402.authorization_header(text, preimage)) == (text, preimage)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic abc",
        "L402",
        'L402 macaroon="a"',
        'L402 macaroon="a", macaroon="b", invoice="c"',
        "L402 a=b",
    ],
)
def test_challenges_that_cannot_be_read(header: str) -> None:
    with pytest.raises(PaymentFailed):
        l402.read_challenge(header)


@pytest.mark.parametrize(
    "header", ["", "L402 abc", "L402 :" + "07" * 32, "Bearer a:" + "07" * 32, "L402 a:zz"]
)
def test_authorizations_that_cannot_be_read(header: str) -> None:
    with pytest.raises(PaymentFailed):
        l402.read_authorization(header)
