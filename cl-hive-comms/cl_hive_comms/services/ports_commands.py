"""What the command pipeline needs from others: rows, people, rules, the node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from hive_shared.alerts import Level
from hive_shared.credential import Credential
from hive_shared.crypto import Secret
from hive_shared.store import StoreStats, Tx

from ..domain.command_record import (
    CommandRow,
    FeeWrite,
    PendingRow,
    ReadGroup,
    RefusalGroup,
    StoredResponse,
    TimerRow,
    Use,
    Vote,
)
from ..domain.forwarding import Hold
from ..domain.receipt_record import AckRow, ReceiptQuery, ReceiptRow, RootRow, SealRow

if TYPE_CHECKING:
    from ..domain.policy import PolicySnapshot

T = TypeVar("T")

Fault = Callable[[str], Awaitable[None]]
"""Called at the named crash points (`after_received`, `after_executing`, `after_cln`, `after_outcome`);
does nothing but in crash tests, where it ends the process."""

Log = Callable[..., None]
"""`log(level, event, **fields)`: one structured line."""


async def no_fault(_point: str) -> None:
    """The Fault of a running node."""


class Database(Protocol):
    """Transactions on the plugin's database."""

    stats: StoreStats
    """Counts of this process, the only one that writes the file."""

    async def write(self, body: Callable[[Tx], T], *, durable: bool = True) -> T:
        """Run `body` in one write transaction; without `durable` the next durable one brings it to disk."""
        ...

    async def read(self, body: Callable[[Tx], T]) -> T:
        """Run `body` on a snapshot."""
        ...

    def peek(self, body: Callable[[Tx], T]) -> T:
        """Look up a handful of rows at once, on the event loop."""
        ...


class ReplayRows(Protocol):
    """Nonces, sequence numbers and kept replies."""

    def last_nonce(self, tx: Tx, sender_key: str) -> int: ...
    def burn(self, tx: Tx, sender_key: str, nonce: int) -> None: ...
    def next_seq(self, tx: Tx, sender_key: str) -> int: ...
    def put_response(self, tx: Tx, response: StoredResponse) -> None: ...
    def response(self, tx: Tx, sender_key: str, nonce: int) -> StoredResponse | None: ...
    def pushes(self, tx: Tx, sender_key: str, since_seq: int, limit: int) -> tuple[str, ...]: ...
    def prune_responses(self, tx: Tx, before: int, limit: int = 2_000) -> int: ...


class CommandRows(ReplayRows, Protocol):
    """The command store (storage.command_store.CommandStore, where the methods are described)."""

    def insert(self, tx: Tx, row: CommandRow) -> None: ...
    def get(self, tx: Tx, command_id: str) -> CommandRow | None: ...
    def by_nonce(self, tx: Tx, sender_key: str, nonce: int) -> CommandRow | None: ...
    def move(
        self,
        tx: Tx,
        command_id: str,
        old: str,
        new: str,
        now: int,
        *,
        slug: str | None = None,
        danger: int | None = None,
        deadline: int | None = None,
        hold_json: str | None = None,
        undo_json: str | None = None,
        receipt_id: int | None = None,
    ) -> bool: ...
    def in_states(
        self, tx: Tx, states: Sequence[str], *, due: int | None = None, limit: int = 1_000
    ) -> tuple[CommandRow, ...]: ...
    def forget_envelope(self, tx: Tx, command_id: str, above: int) -> None: ...
    def open_of_advisor(self, tx: Tx, advisor_id: str, states: Sequence[str]) -> tuple[CommandRow, ...]: ...
    def prune(self, tx: Tx, final: Sequence[str], before: int, limit: int = 1_000) -> int: ...
    def refusal_receipt(self, tx: Tx, sender_key: str, slug: str, minute: int) -> int | None: ...
    def refusals_without_receipt(self, tx: Tx, before_minute: int) -> tuple[RefusalGroup, ...]: ...
    def cover_refusals(self, tx: Tx, group: RefusalGroup, receipt_id: int) -> None: ...
    def reads_without_receipt(self, tx: Tx, before: int) -> tuple[ReadGroup, ...]: ...
    def reads_since(self, tx: Tx, credential_id: str, since: int, limit: int) -> int: ...
    def cover_reads(
        self, tx: Tx, advisor_id: str, credential_id: str, before: int, receipt_id: int
    ) -> None: ...
    def add_pending(self, tx: Tx, row: PendingRow) -> None: ...
    def pending(self, tx: Tx, action_id: str) -> PendingRow | None: ...
    def list_pending(self, tx: Tx, limit: int, advisor_id: str | None = None) -> tuple[PendingRow, ...]: ...
    def count_pending(self, tx: Tx, advisor_id: str | None = None) -> int: ...
    def move_pending(
        self,
        tx: Tx,
        action_id: str,
        old: Sequence[str],
        new: str,
        *,
        params_json: str | None = None,
        challenge: str | None = None,
        challenge_expires: int | None = None,
        expires_at: int | None = None,
        confirm_signature: str | None = None,
        reason: str | None = None,
        result_json: str | None = None,
    ) -> bool: ...
    def vote(self, tx: Tx, vote: Vote) -> bool: ...
    def votes(self, tx: Tx, command_id: str) -> tuple[Vote, ...]: ...
    def set_timer(self, tx: Tx, timer: TimerRow) -> None: ...
    def disarm(self, tx: Tx, kind: str, subject: str, by: str = "") -> bool: ...
    def change_timer(self, tx: Tx, timer: TimerRow) -> bool: ...
    def timers(self, tx: Tx, kind: str | None = None, due: int | None = None) -> tuple[TimerRow, ...]: ...
    def armed(self, tx: Tx, kind: str) -> tuple[tuple[str, int], ...]: ...
    def prune_timers(self, tx: Tx, before: int) -> int: ...
    def timer_done(self, tx: Tx, timer_id: str, now: int) -> bool: ...


class FeeRows(Protocol):
    """Fee history and counters (storage.fee_store.FeeStore)."""

    def add(self, tx: Tx, writes: Iterable[FeeWrite]) -> None: ...
    def since(self, tx: Tx, scids: Sequence[str], ts: int) -> tuple[FeeWrite, ...]: ...
    def prune(self, tx: Tx, before: int) -> int: ...
    def count(self, tx: Tx, use: Use, since: int, *, but: str = "") -> int: ...
    def reserve(self, tx: Tx, uses: Iterable[Use], command_id: str, now: int) -> None: ...
    def release(self, tx: Tx, command_id: str) -> None: ...
    def prune_counters(self, tx: Tx, before: int) -> int: ...


class NameRows(Protocol):
    """Short ids that channels were seen under (storage.channel_name_store.ChannelNameStore)."""

    def note(self, tx: Tx, names: Iterable[tuple[str, str]], now: int) -> None: ...
    def all(self, tx: Tx) -> Mapping[str, str]: ...
    def of(self, tx: Tx, channel_ids: Sequence[str]) -> Mapping[str, frozenset[str]]: ...
    def strangers(self, tx: Tx, scids: Iterable[str]) -> bool: ...


class SavedRows(Protocol):
    """HTLC bounds of disabled channels (storage.saved_channel_store.SavedChannelStore)."""

    def hold(self, tx: Tx, hold: Hold, now: int) -> None: ...
    def holds(self, tx: Tx) -> tuple[Hold, ...]: ...
    def names(self, tx: Tx) -> frozenset[tuple[str, str]]: ...
    def drop(self, tx: Tx, reason: str, channel_id: str) -> None: ...


class Revoking(Protocol):
    """Ending every credential at once (advisor_service)."""

    def active(self) -> tuple[str, ...]:
        """Ids of the credentials that stand now."""
        ...

    async def revoke_all(self, reason: str) -> int:
        """End them, in one transaction; how many. None standing is 0."""
        ...


class ReceiptRows(Protocol):
    """The receipt store (storage.receipt_store.ReceiptStore)."""

    def head(self, tx: Tx) -> ReceiptRow | None: ...
    def append(self, tx: Tx, row: ReceiptRow) -> None: ...
    def get(self, tx: Tx, receipt_id: int) -> ReceiptRow | None: ...
    def walk(self, tx: Tx, from_id: int, to_id: int) -> Iterator[ReceiptRow]: ...
    def find(self, tx: Tx, query: ReceiptQuery) -> tuple[ReceiptRow, ...]: ...
    def of_command(self, tx: Tx, command_id: str) -> tuple[ReceiptRow, ...]: ...
    def after(self, tx: Tx, receipt_id: int, limit: int) -> tuple[ReceiptRow, ...]: ...
    def of_advisor(self, tx: Tx, advisor_id: str, after_id: int, limit: int) -> tuple[ReceiptRow, ...]: ...
    def hashes(self, tx: Tx, first_id: int, last_id: int) -> list[str]: ...
    def span(self, tx: Tx, after_id: int, before: int) -> tuple[int, int] | None: ...
    def first_id(self, tx: Tx) -> int | None: ...
    def first_of_commands(self, tx: Tx, command_ids: Sequence[str]) -> int | None: ...
    def root_across(self, tx: Tx, receipt_id: int) -> RootRow | None: ...
    def checkpoints(self, tx: Tx) -> tuple[RootRow, ...]: ...
    def forget(self, tx: Tx, first_id: int, last_id: int) -> int: ...
    def last_root(self, tx: Tx, kind: str) -> RootRow | None: ...
    def add_root(self, tx: Tx, root: RootRow) -> bool: ...
    def roots(self, tx: Tx, since_id: int, limit: int) -> tuple[RootRow, ...]: ...
    def seals(self, tx: Tx, from_id: int, to_id: int) -> tuple[SealRow, ...]: ...
    def last_sealed(self, tx: Tx) -> int: ...
    def add_seal(self, tx: Tx, seal: SealRow) -> None: ...
    def add_ack(self, tx: Tx, ack: AckRow) -> bool: ...
    def acks(self, tx: Tx, receipt_id: int) -> tuple[AckRow, ...]: ...


class CredentialView(Protocol):
    """A stored credential with its local state."""

    @property
    def credential(self) -> Credential:
        """The signed document."""
        ...

    @property
    def advisor_id(self) -> str:
        """Whose it is."""
        ...

    @property
    def status(self) -> str:
        """`active`, `revoked` or `superseded`."""
        ...

    @property
    def superseded_by(self) -> str | None:
        """The credential that replaced it."""
        ...

    @property
    def trust(self) -> Fraction:
        """Trust put in the agent at the beginning, 0.5 to 2."""
        ...

    @property
    def trust_pinned(self) -> bool:
        """Whether the operator chose its trust and history does not move it."""
        ...

    @property
    def vc(self) -> str | None:
        """Its W3C form as JSON text, None for a credential that the node signed."""
        ...


VerifyCredential = Callable[[str, str, str], Awaitable[None]]
"""`(credential_id, schema, action)`: asks the issuer's side whether a credential that is not the node's own
signature still stands. Raises CredentialInvalid, CredentialUnverifiable."""


class Credentials(Protocol):
    """Who may command (credential_service)."""

    async def current(self, credential_id: str) -> CredentialView | None:
        """The credential of that id, in whatever state."""
        ...

    def standing(self, tx: Tx, credential_id: str) -> str | None:
        """`active`, `revoked` or `superseded` as the database says in this transaction; None if unknown."""
        ...

    def knows(self, sender_key: str) -> bool:
        """Whether the key is, or was, an agent's or approver's. In memory: decides before any I/O."""
        ...


class Handoffs(Protocol):
    """Who of two advisors works while one hands over to the other (services.handoff_service)."""

    def check_write(self, advisor_id: str) -> None:
        """Raises PermissionDenied for the one who may only look on."""
        ...

    def gives_way(self, advisor_id: str, other: str) -> bool:
        """Whether `other` hands over to this advisor."""
        ...


class Policies(Protocol):
    """The operator's policy (policy_service)."""

    def snapshot(self) -> PolicySnapshot:
        """The policy in force."""
        ...


class KillSwitch(Protocol):
    """The emergency stop."""

    def engaged(self) -> bool:
        """Whether nothing may run."""
        ...

    def draining(self) -> bool:
        """Whether no new work is taken."""
        ...

    def check(self) -> None:
        """Raises EmergencyStop while nothing may run."""
        ...


class Alerts(Protocol):
    """What the operator should notice."""

    def raise_in(self, tx: Tx, level: Level, code: str, text: str, dedup_key: str = "") -> None:
        """Store an alert inside the caller's transaction."""
        ...


class Messages(Protocol):
    """Durable outgoing direct messages (messenger)."""

    def enqueue(
        self,
        tx: Tx,
        *,
        recipient: str,
        content: str,
        kind: Literal["response", "push", "message"],
        idempotency_key: str,
        expires_at: int,
        reply_relays: Sequence[str] = (),
        reply_to: str | None = None,
        transport: str = "",
    ) -> None:
        """Store a message inside the caller's transaction; `transport` is the one it has to take."""
        ...

    def kick(self) -> None:
        """Send what is due, after the commit."""
        ...

    def queued(self, tx: Tx, recipient: str) -> tuple[int, int]:
        """How many messages wait to be sent, and how many of them to this recipient."""
        ...


class Identity(Protocol):
    """The node's Nostr key."""

    @property
    def pubkey(self) -> str:
        """X-only public key, 64 hex."""
        ...

    def secret(self) -> Secret:
        """The key that signs responses, pushes and receipts."""
        ...


class FeeNode(Protocol):
    """The calls of the node that fee changes need."""

    async def listpeerchannels(
        self, peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Channels."""
        ...

    async def setchannel(
        self,
        id: str,
        feebase: int | None = None,
        feeppm: int | None = None,
        htlcmin: int | None = None,
        htlcmax: int | None = None,
        enforcedelay: int | None = None,
    ) -> list[dict[str, Any]]:
        """Set a channel's fees."""
        ...


class Node(FeeNode, Protocol):
    """The Lightning node (hive_shared.cln.ClnClient)."""

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        """Any call by name."""
        ...

    async def getinfo(self) -> dict[str, Any]:
        """Identity, height, version."""
        ...

    async def plugin_list(self) -> list[dict[str, Any]]:
        """Plugins."""
        ...

    def plugin_start(self, path: str, *, timeout: float) -> Coroutine[Any, Any, dict[str, Any]]:
        """Start a plugin by its path, with no options of its own."""
        ...

    async def listconfigs(self, config: str | None = None) -> dict[str, Any]:
        """Options in force."""
        ...

    async def signmessage(self, text: str) -> str:
        """The node key's zbase32 signature over a text."""
        ...

    async def help_names(self) -> frozenset[str]:
        """Commands the node offers now."""
        ...
