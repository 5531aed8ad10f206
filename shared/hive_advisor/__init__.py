"""The advisor kit: the other end of the command channel (docs/protocol/11-advisor-kit.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor

__version__ = "0.1.0"
__all__ = ["Advisor", "__version__"]


def __getattr__(name: str) -> object:
    """``from hive_advisor import Advisor`` without paying for it in ``--help``."""
    if name == "Advisor":
        from hive_advisor.advisor import Advisor

        return Advisor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
