"""Gift wraps that are wrong in one layer each, as their makers would send them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event, build, event_id, to_text


def packed(node: str, seal: Mapping[str, Any] | str, now: int) -> Event:
    """The outer layer around anything, by a key used once."""
    once = Secret(os.urandom(32))
    text = seal if isinstance(seal, str) else to_text(dict(seal))
    content = nip44.encrypt(nip44.conversation_key(once, node), text)
    return build(once, 1059, [["p", node]], content, now)


def sealed(sender: Secret, node: str, rumor: Mapping[str, Any] | str, kind: int = 13) -> dict[str, Any]:
    """The middle layer, signed by `sender`."""
    text = rumor if isinstance(rumor, str) else to_text(dict(rumor))
    content = nip44.encrypt(nip44.conversation_key(sender, node), text)
    return dict(build(sender, kind, [], content, 1_700_000_000).to_json())


def rumor(author: str, node: str, text: str, now: int, **changes: Any) -> dict[str, Any]:
    """The inner layer; `changes` are made after its id was computed."""
    tags = [["p", node]]
    return {
        "id": event_id(author, now, 14, tags, text),
        "pubkey": author,
        "created_at": now,
        "kind": 14,
        "tags": tags,
        "content": text,
        **changes,
    }


def broken(sender: Secret, node: str, text: str, now: int) -> dict[str, Event]:
    """One of every kind; all name `sender`, whoever may be behind it."""
    key, mallory = xonly_pubkey(sender), Secret(os.urandom(32))
    good = rumor(key, node, text, now)
    seal = sealed(sender, node, good)
    once = Secret(os.urandom(32))

    def around(layer: Mapping[str, Any] | str) -> Event:
        return packed(node, layer, now)

    return {
        "wrap of nothing": build(once, 1059, [["p", node]], "", now),
        "wrap of junk": build(once, 1059, [["p", node]], "A" * 60_000, now),
        "wrap of too short a payload": build(once, 1059, [["p", node]], "Ag" + "A" * 200, now),
        "wrap of another version": build(once, 1059, [["p", node]], "#" + "A" * 200, now),
        "wrap around no JSON": around("{" * 50),
        "wrap around a list": around("[]"),
        "seal of another kind": around(sealed(sender, node, good, kind=1)),
        "seal with a forged signature": around({**seal, "sig": "00" * 64}),
        "seal with another id": around({**seal, "id": "ab" * 32}),
        "seal without a field": around({k: v for k, v in seal.items() if k != "tags"}),
        "seal of junk": around(dict(build(sender, 13, [], "A" * 500, now).to_json())),
        "rumor of another author than the seal": around(sealed(mallory, node, good)),
        "rumor of another kind": around(sealed(sender, node, {**good, "kind": 1})),
        "rumor with another id": around(sealed(sender, node, {**good, "id": "ab" * 32})),
        "rumor with a signature": around(sealed(sender, node, {**good, "sig": "00" * 64})),
        "rumor that is no JSON": around(sealed(sender, node, "nothing")),
        "rumor with a bad time": around(sealed(sender, node, {**good, "created_at": True})),
        "rumor of tomorrow": around(sealed(sender, node, rumor(key, node, text, now + 86_400))),
    }
