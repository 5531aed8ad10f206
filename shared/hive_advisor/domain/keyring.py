"""The Nostr keys of one identity: the one in use, and replaced ones that are still read
(docs/protocol/11-advisor-kit.md §2).
"""

from __future__ import annotations

from collections.abc import Sequence

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import CredentialInvalid
from hive_shared.nostr.keys import npub_encode


class Keyring:
    """Keys by their x-only hex. A command is signed by the key its credential was issued to, so a client
    that has not re-issued it goes on with the replaced key."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        """``secrets``: oldest first, the last one is in use."""
        self._secrets = {xonly_pubkey(secret): secret for secret in secrets}
        self.pubkeys = tuple(self._secrets)
        self.current = self.pubkeys[-1]

    def __contains__(self, pubkey: object) -> bool:
        return pubkey in self._secrets

    def secret(self, pubkey: str) -> Secret:
        """Raises CredentialInvalid when the key is none of ours, or was replaced too long ago."""
        found = self._secrets.get(pubkey)
        if found is None:
            raise CredentialInvalid(
                f"the key {pubkey[:16]}… is not in use any more (a replaced key is read for 30 days); ask the"
                f" operator to authorise {npub_encode(self.current)}",
                reason="credential_superseded",
            )
        return found
