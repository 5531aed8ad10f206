"""One spelling per mint, and no address that could lead a wallet elsewhere (docs/protocol/03 §4.2)."""

from __future__ import annotations

import pytest
from hive_shared.cashu.mint_url import normal_mint_url


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://Mint.Example.com", "https://mint.example.com"),
        ("https://mint.example.com:443/", "https://mint.example.com"),
        ("https://mint.example.com:8443/Bitcoin/", "https://mint.example.com:8443/Bitcoin"),
        ("https://mint.example.com.", "https://mint.example.com"),
        ("http://127.0.0.1:3338", "http://127.0.0.1:3338"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:3338/", "http://[::1]:3338"),
        ("http://abcdefgh.onion", "http://abcdefgh.onion"),
    ],
)
def test_normal_form(given: str, normal: str) -> None:
    assert normal_mint_url(given) == normal
    assert normal_mint_url(normal) == normal


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("http://mint.example.com", "must use https://"),
        ("wss://mint.example.com", "must look like https://mint.example.com"),
        ("mint.example.com", "must look like https://mint.example.com"),
        ("https://user:pw@mint.example.com", "must not carry a user name"),
        ("https://mint.example.com?x=1", "must not carry a query or fragment"),
        ("https://mint.example.com/#a", "must not carry a query or fragment"),
        ("https://mint.example.com:0", "no usable host or port"),
        ("https://mint.example.com:99999", "cannot be read"),
        ("https://mïnt.example.com", "characters no address has"),
        ("https://mint.example.com/a/../b", "not in its shortest form"),
        ("https://mint.example.com//a", "not in its shortest form"),
        ("https://mint.example.com\\@evil.example", "characters no address has"),
        ("", "must look like"),
    ],
)
def test_refused_with_the_reason(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        normal_mint_url(given)
