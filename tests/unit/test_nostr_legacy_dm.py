"""Messages of kind 4: what is read of them, and what is not (Protocol 04 §6 "Legacy")."""

from __future__ import annotations

import json

import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event, build, check
from hive_shared.nostr.giftwrap import WrapInvalid
from hive_shared.nostr.legacy_dm import build_legacy, open_legacy

ALICE, BOB, EVE = (Secret(bytes([number]) * 32) for number in (1, 2, 3))
TO_BOB = xonly_pubkey(BOB)
NOW = 1_770_000_000


def sealed(text: str, *, to: str = TO_BOB) -> str:
    return nip44.encrypt(nip44.conversation_key(ALICE, to), text)


def letter(content: str, *, to: str = TO_BOB) -> Event:
    return build(ALICE, 4, [["p", to]], content, NOW)


def reason(event: Event, *, encrypted: bool = True, plain: bool = False, secret: Secret = BOB) -> str:
    with pytest.raises(WrapInvalid) as error:
        open_legacy(secret, event, encrypted=encrypted, plain=plain)
    return error.value.reason


def test_nip44_content_is_read_where_it_is_allowed() -> None:
    event = letter(sealed('{"schema_type":"x"}'))
    message, legacy = open_legacy(BOB, event, encrypted=True, plain=False)
    assert (message.sender, message.content, legacy) == (xonly_pubkey(ALICE), '{"schema_type":"x"}', True)
    assert message.rumor_id == event.id and message.created_at == NOW
    assert reason(event, encrypted=False) == "legacy"
    assert reason(event, encrypted=False, plain=True) == "legacy"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("b64:eyJhIjoxfQ==", "encryption"),
        ("nip44:" + sealed("{}"), "encryption"),
        ("AAAA?iv=BBBB", "encryption"),
        ('{"schema_type":"hive:monitor/v1"}', "plaintext"),
        ("  [1]", "plaintext"),
        ("hello", "encryption"),
        ("", "encryption"),
        (sealed("{}")[:-4] + "AAAA", "encryption"),
        ("#" + sealed("{}"), "encryption"),
    ],
)
def test_everything_else_is_refused(content: str, why: str) -> None:
    assert reason(letter(content)) == why


def test_plain_json_is_read_only_where_a_test_network_allows_it() -> None:
    message, legacy = open_legacy(BOB, letter('{"a":1}'), encrypted=False, plain=True)
    assert message.content == '{"a":1}' and not legacy
    for content in ("b64:eyJhIjoxfQ==", "nip44:{}", "hello"):
        assert reason(letter(content), encrypted=True, plain=True) == "encryption"


def test_a_message_to_somebody_else_or_of_another_kind_is_not_opened() -> None:
    to_eve = xonly_pubkey(EVE)
    assert reason(letter(sealed("{}", to=to_eve), to=to_eve)) == "recipient"
    assert reason(build(ALICE, 14, [["p", TO_BOB]], sealed("{}"), NOW)) == "kind"
    # Readdressed by a third party: signed anew, and not decryptable under its key.
    stolen = build(EVE, 4, [["p", TO_BOB]], sealed("{}"), NOW)
    assert reason(stolen) == "encryption"


def test_a_repeat_is_the_same_event_and_other_content_has_another_nonce() -> None:
    keys = nip44.ConversationKeys()

    def made(content: str, now: int = NOW) -> Event:
        return build_legacy(
            ALICE, TO_BOB, content, tags=[["e", "0" * 64]], now=now, expiration=NOW + 60, keys=keys
        )

    first = made('{"n":1}')
    assert made('{"n":1}').id == first.id and check(first) is None
    assert first.kind == 4 and first.tags[0] == ("p", TO_BOB) and first.expiration == NOW + 60
    others = [made('{"n":2}'), made('{"n":1}', NOW + 1)]
    nonces = {event.content[:44] for event in (first, *others)}
    assert len(nonces) == 3
    message, legacy = open_legacy(BOB, first, encrypted=True, plain=False)
    assert json.loads(message.content) == {"n": 1} and legacy
