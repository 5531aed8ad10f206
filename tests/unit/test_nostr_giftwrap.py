"""Gift wraps both ways with nostr-sdk, and every check of Protocol 04 §6 "Verify"."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import nostr_sdk
import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap, nip44
from hive_shared.nostr.event import Event, build, event_id, to_text, verify
from hive_shared.nostr.giftwrap import WrapInvalid, unwrap, wrap

ALICE, BOB, EVE = (Secret(bytes((n,)) * 32) for n in (1, 2, 3))
NOW = 1_700_000_000
TOPIC = [["t", "hive-mgmt"]]


def _send(content: str = "hello", **options: Any) -> tuple[Event, str]:
    options = {"tags": TOPIC, "now": NOW, "rng": os.urandom, "expiration": None} | options
    return wrap(ALICE, xonly_pubkey(BOB), content, **options)


def _forge(
    rumor: dict[str, Any] | str,
    *,
    sealer: Secret = ALICE,
    edit: Callable[[dict[str, Any]], Any] | None = None,
) -> Event:
    """A wrap for Bob around an arbitrary rumor, with a real seal of `sealer` that `edit` may alter."""
    text = rumor if isinstance(rumor, str) else to_text(rumor)
    seal = build(
        sealer, 13, [], nip44.encrypt(nip44.conversation_key(sealer, xonly_pubkey(BOB)), text), NOW
    ).to_json()
    packed = to_text(seal if edit is None else edit(seal))
    payload = nip44.encrypt(nip44.conversation_key(EVE, xonly_pubkey(BOB)), packed)
    return build(EVE, 1059, [["p", xonly_pubkey(BOB)]], payload, NOW)


def _rumor(author: Secret = ALICE, **changes: Any) -> dict[str, Any]:
    fields = {"created_at": NOW, "kind": 14, "tags": [["p", xonly_pubkey(BOB)]], "content": "hello"} | changes
    digest = event_id(
        xonly_pubkey(author), fields["created_at"], fields["kind"], fields["tags"], fields["content"]
    )
    return {"id": digest, "pubkey": xonly_pubkey(author)} | fields


def _reason(event: Event, recipient: Secret = BOB) -> str:
    with pytest.raises(WrapInvalid) as refused:
        unwrap(recipient, event)
    return refused.value.reason


def test_a_message_arrives_with_its_proven_sender() -> None:
    event, rumor_id = _send("⚡ {}", expiration=NOW + 3_600)
    message = unwrap(BOB, event)
    assert (message.sender, message.content, message.created_at) == (xonly_pubkey(ALICE), "⚡ {}", NOW)
    assert (message.rumor_id, message.wrap_id) == (rumor_id, event.id)
    assert message.tags == (("p", xonly_pubkey(BOB)), ("t", "hive-mgmt"))
    assert event.expiration == NOW + 3_600


def test_the_wrap_shows_neither_sender_nor_time() -> None:
    events = [_send()[0] for _ in range(20)]
    assert len({event.pubkey for event in events}) == 20
    assert all(event.pubkey != xonly_pubkey(ALICE) for event in events)
    assert all(NOW - 172_800 <= event.created_at <= NOW for event in events)
    assert len({event.created_at for event in events}) > 10
    assert all(event.tags == (("p", xonly_pubkey(BOB)),) for event in events)


def test_acceptance_04_08_an_independent_client_opens_our_wrap() -> None:
    event, rumor_id = _send("to you", expiration=NOW + 3_600)
    gift = nostr_sdk.UnwrappedGift.from_gift_wrap(
        nostr_sdk.Keys.parse(BOB.reveal().hex()), nostr_sdk.Event.from_json(json.dumps(event.to_json()))
    )
    rumor = json.loads(gift.rumor().as_json())
    assert gift.sender().to_hex() == rumor["pubkey"] == xonly_pubkey(ALICE)
    assert (rumor["id"], rumor["content"], rumor["kind"]) == (rumor_id, "to you", 14)


@pytest.mark.parametrize("with_id", [True, False])
def test_acceptance_04_08_we_open_the_wrap_of_an_independent_client(with_id: bool) -> None:
    rumor = _rumor(content="from them")
    if not with_id:
        del rumor["id"]
    theirs = nostr_sdk.nip59_make_gift_wrap(
        nostr_sdk.Keys.parse(ALICE.reveal().hex()),
        nostr_sdk.PublicKey.parse(xonly_pubkey(BOB)),
        nostr_sdk.UnsignedEvent.from_json(json.dumps(rumor)),
    )
    message = unwrap(BOB, giftwrap.parse_event(json.loads(theirs.as_json())))
    assert (message.sender, message.content) == (xonly_pubkey(ALICE), "from them")


def test_acceptance_04_08_a_rumor_that_names_another_author_is_dropped() -> None:
    assert _reason(_forge(_rumor(author=ALICE), sealer=EVE)) == "author"


def test_wraps_for_another_key_and_other_kinds_are_refused() -> None:
    event, _ = _send()
    assert _reason(event, recipient=EVE) == "recipient"
    assert _reason(build(EVE, 4, [["p", xonly_pubkey(BOB)]], "x", NOW)) == "kind"


def test_a_wrap_with_forged_id_or_signature_is_refused() -> None:
    event, _ = _send()
    other, _ = _send()
    changed = {name: getattr(event, name) for name in Event.__slots__}
    assert _reason(Event(**(changed | {"sig": other.sig}))) == "signature"
    assert _reason(Event(**(changed | {"created_at": 5}))) == "id"
    assert unwrap(BOB, Event(**(changed | {"sig": other.sig})), verified=True).content == "hello"


def test_a_wrap_that_cannot_be_decrypted_is_refused() -> None:
    text = nip44.encrypt(os.urandom(32), "x")
    assert _reason(build(EVE, 1059, [["p", xonly_pubkey(BOB)]], text, NOW)) == "encryption"
    assert _reason(build(EVE, 1059, [["p", xonly_pubkey(BOB)]], "b64:aGVsbG8=", NOW)) == "encryption"
    foreign_seal = _forge(_rumor(), edit=lambda seal: build(ALICE, 13, [], text, NOW).to_json())
    assert _reason(foreign_seal) == "encryption"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda seal: seal | {"sig": "00" * 64}, "seal_signature"),
        (lambda seal: seal | {"created_at": 1}, "seal_signature"),
        (lambda seal: seal | {"pubkey": "ff" * 32}, "seal_signature"),
        (lambda seal: [seal], "seal"),
        (lambda seal: seal | {"kind": True}, "seal"),
        (lambda seal: build(ALICE, 14, [], seal["content"], NOW).to_json(), "seal"),
    ],
)
def test_a_bad_seal_is_refused(edit: Callable[[dict[str, Any]], Any], reason: str) -> None:
    assert _reason(_forge(_rumor(), edit=edit)) == reason


@pytest.mark.parametrize(
    ("rumor", "reason"),
    [
        (_rumor() | {"sig": ""}, "rumor"),
        (_rumor() | {"sig": "00" * 64}, "rumor"),
        (_rumor() | {"id": "00" * 32}, "rumor_id"),
        (_rumor() | {"id": 5}, "rumor_id"),
        (_rumor() | {"content": "other"}, "rumor_id"),
        (_rumor(kind=15), "rumor"),
        (_rumor() | {"kind": 14.0}, "rumor"),
        (_rumor() | {"tags": [[]]}, "rumor"),
        (_rumor() | {"content": None}, "rumor"),
        ("[]", "rumor"),
        ("{", "rumor"),
        ('{"a":1,"a":2}', "rumor"),
        ('{"a":NaN}', "rumor"),
        ('{"a":"\\ud800"}', "rumor"),
        ("[" * 20_000, "rumor"),
        ({}, "author"),
    ],
)
def test_a_bad_rumor_is_refused(rumor: dict[str, Any] | str, reason: str) -> None:
    assert _reason(_forge(rumor)) == reason


def test_the_largest_rumor_fits_what_common_relays_take() -> None:
    empty = len(to_text(_rumor(tags=[["p", xonly_pubkey(BOB)], *TOPIC], content="")))
    event, _ = _send("x" * (giftwrap.MAX_RUMOR - empty), expiration=NOW + 3_600)
    assert 55_000 < len(to_text(event.to_json()).encode()) < 65_536 and verify(event)
    with pytest.raises(WrapInvalid) as refused:
        _send("x" * (giftwrap.MAX_RUMOR - empty + 1))
    assert refused.value.reason == "too_large"


def test_what_split_leaves_whole_always_fits_one_wrap() -> None:
    for text in ("x" * 27_000, '"' * 13_900, "\x01" * 4_600, "⚡" * 9_200):
        pieces = giftwrap.split_chunks(text)
        assert len(pieces) == 1
        _send(pieces[0], tags=[["t", "hive-mgmt"], ["t", "x"], ["e", "00" * 32]])


def test_a_random_source_that_yields_no_key_is_reported() -> None:
    with pytest.raises(WrapInvalid) as refused:
        _send(rng=bytes)
    assert refused.value.reason == "key"


def test_cached_conversation_keys_give_the_same_result() -> None:
    cache = nip44.ConversationKeys()
    event, _ = _send(keys=cache)
    assert unwrap(BOB, event, keys=cache).content == "hello"
