"""Credentials that came from one another by renewal: what was agreed under one goes on under the next
(docs/protocol/02-fleet-management.md §2.5)."""

from __future__ import annotations

from typing import Final

from .command_case import Case
from .ports_commands import Credentials

_MAX_RENEWALS: Final = 20


async def lineage(credentials: Credentials, case: Case, named: str | None) -> tuple[str, ...]:
    """The credential of a command, and `named` if that one, of the same agent, was renewed into it."""
    at = named
    for _ in range(_MAX_RENEWALS):
        if at is None or at == case.credential_id:
            break
        view = await credentials.current(at)
        at = None if view is None or view.advisor_id != case.advisor_id else view.superseded_by
    return (case.credential_id,) if named is None or at is None else (case.credential_id, named)
