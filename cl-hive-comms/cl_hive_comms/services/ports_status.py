"""What status and self-check read of the options."""

from typing import Any, Protocol

from cl_hive_comms.domain.relay_sets import RelaySets


class Options(Protocol):
    """The current options (options.Config)."""

    @property
    def relays(self) -> tuple[str, ...]:
        """Relays we read from and write to."""
        ...

    @property
    def relay_sets(self) -> RelaySets:
        """All lists of relays, and how much relays may learn."""
        ...

    def get(self, name: str) -> Any:
        """One option by its name without prefix."""
        ...

    def unserved(self) -> list[str]:
        """Options that were changed although nothing reads them."""
        ...

    def ignored(self) -> list[str]:
        """Options that were set although they are history."""
        ...


class NodeInfo(Protocol):
    """The node's own word."""

    async def getinfo(self) -> dict[str, Any]:
        """Identity, height, version."""
        ...
