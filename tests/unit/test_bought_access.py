"""Access that is bought: which places may be asked, what a challenge says
(docs/protocol/03-escrow-and-payments.md §7.5)."""

from __future__ import annotations

import pytest
from cl_hive_comms import option_parsers as read
from cl_hive_comms.domain.bought_access import NEVER, challenge_of, place_of
from hive_shared import l402
from hive_shared.crypto import Secret
from hive_shared.errors import HiveError, InvalidParams

NOW = 1_770_000_000


def macaroon(*caveats: str) -> str:
    """One of a seller with words of its own."""
    return l402.Macaroon(l402.Identifier(b"\xaa" * 32, b"\xbb" * 32), caveats, Secret(b"\xcc" * 32)).text()


@pytest.mark.parametrize(
    ("caveats", "end"),
    [
        ((), NEVER),
        (("service=fees:0", "fees_valid_until=5"), NEVER),
        (("expires = 1800000000", "expires=1900000000", "tier=gold"), 1_800_000_000),
        (("expires=soon",), NEVER),
    ],
)
def test_only_the_end_of_a_token_is_read_here(caveats: tuple[str, ...], end: int) -> None:
    text = macaroon(*caveats)
    found = challenge_of([f'L402 macaroon="{text}", invoice="lnbc1x"'], NOW)
    assert (found.expires_at, found.payment_hash, found.invoice) == (end, "aa" * 32, "lnbc1x")
    assert found.macaroon.reveal().decode() == text and text not in repr(found)


def test_the_newer_word_is_taken_where_both_are_said() -> None:
    said = [f'{word} macaroon="{macaroon()}", invoice="{word}"' for word in ("LSAT", "l402")]
    found = challenge_of(["Basic", *said], NOW)
    assert (found.scheme, found.invoice) == ("L402", "l402")
    assert challenge_of(said[:1], NOW).scheme == "LSAT"
    url_safe = macaroon().replace("+", "-").replace("/", "_").rstrip("=")
    assert challenge_of([f'LSAT macaroon="{url_safe}", invoice="x"'], NOW).payment_hash == "aa" * 32


@pytest.mark.parametrize(
    "headers",
    [[], ["Basic realm=x"], ["L402"], ["L402 token"], [f'L402 macaroon="{"A" * 12_000}", invoice="x"']],
)
def test_what_is_no_challenge_is_refused(headers: list[str]) -> None:
    with pytest.raises(HiveError) as refused:
        challenge_of(headers, NOW)
    assert refused.value.reason == "payment_invalid"


@pytest.mark.parametrize(
    ("url", "hosts", "place"),
    [
        ("https://api.example.org/x?y=1", "API.example.org", "https://api.example.org:443"),
        ("https://API.example.org:443", "api.example.org:443", "https://api.example.org:443"),
        (
            "https://api.example.org:8443/",
            "a.example.org, api.example.org:8443",
            "https://api.example.org:8443",
        ),
        ("http://abcd.onion/x", "abcd.onion", "http://abcd.onion:80"),
        ("https://abcd.onion/x", "abcd.onion", "https://abcd.onion:443"),
        ("https://api.example.org:8443/", "api.example.org", None),
        ("https://api.example.org/", "api.example.org:8443", None),
        ("https://api.example.org.evil.example/", "api.example.org", None),
        ("https://api.example.org@evil.example/", "api.example.org", None),
        ("https://api.example.org./", "api.example.org", None),
        ("http://api.example.org/", "api.example.org", None),
        ("http://api.example.org:443/", "api.example.org", None),
        ("ftp://api.example.org/", "api.example.org", None),
        ("https://api.example.org/", "", None),
        ("lnbc1", "api.example.org", None),
    ],
)
def test_a_place_is_one_that_the_operator_named(url: str, hosts: str, place: str | None) -> None:
    named = read.web_hosts(hosts)
    if place is not None:
        assert place_of(url, named) == place
        return
    with pytest.raises(InvalidParams) as refused:
        place_of(url, named)
    assert refused.value.data == {"param": "target"}


@pytest.mark.parametrize(
    "bad",
    ["https://x.org", "x.org/path", "me@x.org", "10.0.0.1", "localhost", "x.org:", "x.org:0", "x.org.", "*"],
)
def test_what_is_no_public_host_is_no_value_of_the_option(bad: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read.web_hosts(bad)
