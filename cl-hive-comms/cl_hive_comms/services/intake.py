"""Steps 1 to 8 of the pipeline: may this be a command at all? (docs/protocol/02-fleet-management.md §7.1)

Nothing here writes. Strangers are dropped first, before their text is even decoded, so that a flood costs
a set lookup. Refusals are answered to keys we know, and to nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

import msgspec
from hive_shared import envelope
from hive_shared.canonical import JsonValue, decode, encode
from hive_shared.credential import doc_hash, parse, to_doc
from hive_shared.envelope import Command
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import CONTROL

from .ports_commands import Credentials, CredentialView, Identity, KillSwitch, VerifyCredential

PER_MINUTE: Final = 60
DANGEROUS_PER_MINUTE: Final = 5
DANGEROUS: Final = 5
# Beyond this many refusals a minute even a known key gets no answers: each costs an outbox row.
_ANSWERED_PER_MINUTE: Final = 2 * PER_MINUTE
# Transports that prove who sends; on the others the key is a claim until the envelope's signature is checked.
_PROVES_SENDER: Final = frozenset({"nostr_dm"})
VOTES: Final = frozenset({"approve", "reject"})


class Ingress(msgspec.Struct, frozen=True):
    """How a message came in.

    `sender_key` is the x-only key that the transport verified (Nostr), or the one the caller claims
    (`rest`, `local`): there the envelope's own signature proves it. `message_id` names the message on
    its transport, `received_at` is unix seconds.
    """

    transport: str
    sender_key: str
    message_id: str
    received_at: int


class Admitted(msgspec.Struct, frozen=True):
    """A command that its agent signed under a credential in force. `view` is None for an approver's vote."""

    command: Command
    view: CredentialView | None


class Refused(msgspec.Struct, frozen=True):
    """A refusal before the nonce was burned. `nonce` is 0 where it could not be read."""

    error: HiveError
    nonce: int = 0
    command_id: str | None = None
    reply_relays: tuple[str, ...] = ()


class Windows(Protocol):
    """Sliding windows of one minute, in memory, bounded (domain.rate_limit)."""

    def allow(self, window: str, key: str, limit: int) -> bool:
        """Count one use of a key; False when the limit is reached, then nothing is counted."""
        ...


class Intake:
    """Admits, refuses or drops what arrives."""

    def __init__(
        self,
        *,
        identity: Identity,
        credentials: Credentials,
        kill_switch: KillSwitch,
        windows: Windows,
        node_id: Callable[[], str],
        trusted_issuers: Callable[[], Collection[str]],
        approvers: Callable[[], Collection[str]],
        verify: VerifyCredential,
        max_skew_s: Callable[[], int],
        now: Callable[[], int],
    ) -> None:
        self._verify = verify
        self._identity, self._credentials, self._kill = identity, credentials, kill_switch
        self._windows, self._node_id, self._trusted = windows, node_id, trusted_issuers
        self._approvers, self._max_skew_s, self._now = approvers, max_skew_s, now

    async def admit(self, raw: bytes | str, ingress: Ingress) -> Admitted | Refused | None:
        """Steps 1 to 8. None: dropped without a word."""
        if not self._credentials.knows(ingress.sender_key):
            return None
        proven = ingress.transport in _PROVES_SENDER
        command: Command | None = None
        try:
            command = envelope.decode_command(raw)
            self._check_running()
            self._check_transport(command, ingress)
            if proven:
                self._check_rate(ingress.sender_key)
            self._check_target(command)
            view = await self.authorise(command, ingress.transport)
            self._check_signature(command, view)
            if not proven:
                # Not before: who only claims a key must not use up the minute of its owner.
                self._check_rate(ingress.sender_key)
        except HiveError as error:
            who = ingress.sender_key if proven else f"{ingress.transport} {ingress.sender_key}"
            if not self._windows.allow("answers", who, _ANSWERED_PER_MINUTE):
                return None
            if command is None:
                return Refused(error)
            return Refused(error, command.nonce, command.command_id, command.reply_relays)
        return Admitted(command, view)

    # -- the steps ----------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._kill.engaged():
            raise from_symbol("emergency_stop", "the operator stopped all remote commands; ask again later")
        if self._kill.draining():
            raise from_symbol(
                "shutting_down", "the node takes no new commands before a restart; ask again later"
            )

    def _check_transport(self, command: Command, ingress: Ingress) -> None:
        if command.sender != ingress.sender_key:
            raise from_symbol(
                "unauthorized", f"the envelope names another sender than the {ingress.transport} transport"
            )

    def _check_rate(self, sender_key: str) -> None:
        if not self._windows.allow("commands", sender_key, PER_MINUTE):
            raise from_symbol(
                "rate_limited",
                f"more than {PER_MINUTE} commands in a minute",
                retry_after=60,
                limit=PER_MINUTE,
            )

    def _check_target(self, command: Command) -> None:
        if command.node != self._identity.pubkey:
            raise from_symbol(
                "wrong_node", f"the command is for node {command.node}, this is {self._identity.pubkey}"
            )
        skew = command.timestamp - self._now()
        limit = self._max_skew_s()
        if abs(skew) > limit:
            raise from_symbol(
                "stale_timestamp",
                f"the timestamp differs by {skew} s from the node's clock, {limit} s are allowed",
                server_time=self._now(),
                max_skew_s=limit,
            )

    async def authorise(self, command: Command, transport: str) -> CredentialView | None:
        """Step 6, also repeated before a waiting command runs. None for a vote of an approver.

        Raises Unauthorized, CredentialInvalid, CredentialUnverifiable.
        """
        if command.credential is None:
            if (
                command.schema_type == CONTROL
                and command.action in VOTES
                and command.sender in self._approvers()
            ):
                return None
            raise from_symbol("unauthorized", "the command names no credential")
        view = await self._credentials.current(command.credential.credential_id)
        if view is None or view.credential.agent_key != command.sender:
            raise from_symbol("unauthorized", "this node issued no such credential to this key")
        self._check_credential(view, transport)
        self._check_copy(command, view)
        # Another process is asked last: what is wrong here needs no answer from there.
        await self.verify(view, command.schema_type, command.action)
        return view

    async def verify(self, view: CredentialView, schema: str, action: str) -> None:
        """Ask the issuer's side about a credential that this node did not sign. Raises CredentialInvalid,
        CredentialUnverifiable."""
        await self._verify(view.credential.credential_id, schema, action)

    def check_standing(self, view: CredentialView) -> None:
        """Whether a credential is in force at this node now. Raises CredentialInvalid, Unauthorized."""
        credential, now = view.credential, self._now()
        if view.status == "revoked":
            raise from_symbol("credential_revoked", "the operator revoked this credential")
        if view.superseded_by is not None:
            raise from_symbol(
                "credential_superseded",
                f"the credential was replaced by {view.superseded_by}",
                by=view.superseded_by,
            )
        if now < credential.valid_from:
            raise from_symbol(
                "credential_not_yet_valid", f"the credential is valid from {credential.valid_from}"
            )
        if now >= credential.valid_until:
            raise from_symbol("credential_expired", f"the credential expired at {credential.valid_until}")
        if credential.issuer_id != self._node_id() and credential.issuer_id not in self._trusted():
            raise from_symbol("issuer_untrusted", f"the issuer {credential.issuer_id} is not trusted here")
        if credential.node_id != self._node_id():
            raise from_symbol("unauthorized", "the credential is for another node")

    def _check_credential(self, view: CredentialView, transport: str) -> None:
        self.check_standing(view)
        allowed = view.credential.constraints.get("transports")
        if isinstance(allowed, list) and transport not in allowed:
            raise from_symbol(
                "constraint_violated", f"the credential does not allow {transport}", constraint="transports"
            )

    def _check_copy(self, command: Command, view: CredentialView) -> None:
        # The node's table is the truth; a copy that differs means that the agent works with other terms.
        assert command.credential is not None
        given = command.credential.hash
        if given is not None and given != doc_hash(view.credential):
            raise from_symbol("unauthorized", "credential.hash is not that of the credential stored here")
        copy = command.credential.vc
        if copy is not None and not _same(copy, view):
            raise from_symbol("unauthorized", "the embedded credential is not the one stored here")

    def _check_signature(self, command: Command, view: CredentialView | None) -> None:
        agent_id = None if view is None else view.credential.agent_id
        node = agent_id if agent_id is not None and len(agent_id) == 66 else None
        if not envelope.verify_signature(command, node):
            raise from_symbol(
                "bad_signature", "the signature does not fit the envelope; the nonce is still unused"
            )

    def check_danger_rate(self, sender_key: str, danger: int) -> None:
        """Count a command whose whole danger is known now (docs/decisions/0399). Raises RateLimited."""
        if danger >= DANGEROUS and not self._windows.allow("dangerous", sender_key, DANGEROUS_PER_MINUTE):
            raise from_symbol(
                "rate_limited",
                f"more than {DANGEROUS_PER_MINUTE} commands of danger {DANGEROUS} or more in a minute",
                retry_after=60,
                limit=DANGEROUS_PER_MINUTE,
            )


def _same(copy: JsonValue, view: CredentialView) -> bool:
    credential = view.credential
    try:
        if view.vc is not None:
            return encode(copy) == encode(decode(view.vc, floats=True))
        return doc_hash(parse(copy)) == doc_hash(credential) and to_doc(credential) == copy
    except (HiveError, ValueError):
        return False
