"""Macaroons from anywhere: read and written back to the byte, or refused."""

from __future__ import annotations

import base64

from hive_shared import l402
from hive_shared.crypto import Secret
from hive_shared.errors import PaymentFailed
from hive_shared.l402 import Identifier
from hypothesis import given
from hypothesis import strategies as st

ROOT = Secret(b"r" * 32)
KEYS = ("node", "agent", "credential", "contract", "tier", "schemas", "expires", "max_actions", "max_danger")
values = st.sampled_from(["1", "5", "1000", "monitor", "admin"]) | st.text(max_size=20)
caveats = st.lists(st.tuples(st.sampled_from([*KEYS, "other"]), values).map("=".join), max_size=6)
mutations = st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=4)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode()))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        l402.decode(text)
    except PaymentFailed as refused:
        assert refused.symbol == "payment_invalid"


@given(caveats, mutations)
def test_a_changed_macaroon_never_grants_more(chosen: list[str], changes: list[tuple[int, bytes]]) -> None:
    try:
        made = l402.mint(ROOT, Identifier(b"h" * 32, b"t" * 32), chosen)
    except PaymentFailed:
        return
    data = bytearray(made.encode())
    for at, put in changes:
        data[at : at + len(put)] = put
    try:
        read = l402.decode(base64.b64encode(bytes(data)).decode())
    except PaymentFailed:
        return
    if l402.check_signature(read, ROOT):
        assert read.caveats[: len(made.caveats)] == made.caveats and read.identifier == made.identifier


@given(caveats)
def test_any_caveats_are_read_or_refused(chosen: list[str]) -> None:
    try:
        l402.rights_of(chosen)
    except PaymentFailed as refused:
        assert refused.symbol == "payment_invalid"
