"""Direct messages of kind 4, the form before gift wraps (Protocol 04 §6 "Legacy", 02 §6.2).

Read only with NIP-44 content, and only where the operator asks for it: relays see who writes to whom, and
when. The older encryption (NIP-04) and what merely looks like one (`b64:`, `nip44:`) are refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.giftwrap import Message, WrapInvalid
from hive_shared.nostr.reasons import Nip44Error

KIND_LEGACY: Final = 4
_PRETENDED: Final = ("b64:", "nip44:")


def open_legacy(
    recipient_secret: Secret,
    event: Event,
    *,
    encrypted: bool,
    plain: bool,
    keys: nip44.ConversationKeys | None = None,
) -> tuple[Message, bool]:
    """Open a verified kind 4 event addressed to us; the message, and whether it was encrypted.

    `encrypted` takes NIP-44 content, `plain` a JSON object as it stands (test networks). The event's own
    signature proves the sender. Raises WrapInvalid; its reason is `kind`, `recipient`, `plaintext`,
    `encryption` or `legacy`.
    """
    if event.kind != KIND_LEGACY:
        raise WrapInvalid("kind", f"a legacy message has kind 4, not {event.kind}")
    if xonly_pubkey(recipient_secret) not in event.tag_values("p"):
        raise WrapInvalid("recipient", "the message is addressed to another key")
    text = event.content
    if text.startswith(_PRETENDED) or "?iv=" in text:
        raise WrapInvalid("encryption", "content that only looks encrypted, or NIP-04, is not read")
    if text.lstrip()[:1] in ("{", "["):
        if not plain:
            raise WrapInvalid("plaintext", "the content is not encrypted")
        return _message(event, text), False
    if not encrypted:
        raise WrapInvalid("legacy", "encrypted messages of kind 4 are not read here")
    try:
        key = (
            nip44.conversation_key(recipient_secret, event.pubkey)
            if keys is None
            else keys.get(recipient_secret, event.pubkey)
        )
        return _message(event, nip44.decrypt(key, text)), True
    except Nip44Error as error:
        raise WrapInvalid("encryption", str(error)) from None


def build_legacy(
    sender_secret: Secret,
    recipient_hex: str,
    content: str,
    *,
    tags: Sequence[Sequence[str]],
    now: int,
    expiration: int,
    keys: nip44.ConversationKeys,
) -> Event:
    """A kind 4 event with NIP-44 content, dated `now`; the same arguments give the same event id.

    Raises Nip44Error on a bad key or a text above 65,535 bytes.
    """
    # From all that goes in, so that a repeat is the same event, and no nonce meets two contents.
    told = f"{recipient_hex}\0{now}\0{content}".encode()
    nonce = hmac.digest(sender_secret.reveal(), b"hive-legacy-dm\0" + told, "sha256")
    sealed = nip44.encrypt(keys.get(sender_secret, recipient_hex), content, nonce)
    known = [["p", recipient_hex], *[list(tag) for tag in tags], ["expiration", str(expiration)]]
    return build(sender_secret, KIND_LEGACY, known, sealed, now)


def _message(event: Event, content: str) -> Message:
    return Message(event.pubkey, event.id, content, event.created_at, event.tags, event.id)
