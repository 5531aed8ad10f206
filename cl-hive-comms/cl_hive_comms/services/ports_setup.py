"""What the setup session needs from storage and the node, and what it shows."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from hive_shared.store import Tx

from cl_hive_comms.domain.setup import Part, Session


class SetupRows(Protocol):
    """Sessions (storage.setup_store.SetupStore)."""

    def add(self, tx: Tx, session: Session) -> None: ...
    def save(self, tx: Tx, session: Session) -> None: ...
    def get(self, tx: Tx, session_id: str) -> Session | None: ...
    def current(self, tx: Tx) -> Session | None: ...
    def forget(self, tx: Tx, until: int) -> None: ...


class NodeOptions(Protocol):
    """Options of this plugin as the node keeps them, by their name without prefix."""

    def current(self, name: str) -> str:
        """The value in force; empty for none."""
        ...

    def read(self, name: str, text: str) -> str:
        """The value as it would be kept. Raises ValueError with a sentence."""
        ...

    async def set(self, name: str, value: str) -> None:
        """Have the node change it and write it down. Raises ClnError."""
        ...


class SelfCheck(Protocol):
    """The self-check (services.selfcheck_service.SelfcheckService)."""

    async def run(self, fix: bool = False) -> dict[str, Any]: ...


class Choice(msgspec.Struct, frozen=True):
    """One answer that may be given. `example` is what to type where `answer` only describes it."""

    answer: str
    means: str
    example: str = ""

    @property
    def typed(self) -> str:
        """What stands behind `answer=` in a command."""
        return self.example or self.answer


class Question(msgspec.Struct, frozen=True):
    """What a step asks: a prompt, the answers to it, and what is to be known first."""

    prompt: str
    choices: tuple[Choice, ...]
    facts: Mapping[str, Any] = msgspec.field(default_factory=dict)


class View(msgspec.Struct, frozen=True):
    """A session as it is shown. `then` are commands for afterwards."""

    session_id: str
    step: str
    question: Question
    done: bool = False
    next_step: str | None = None
    expires_at: int | None = None
    report: tuple[Part, ...] = ()
    then: tuple[str, ...] = ()
