"""Calls that the node may take minutes or days to answer (docs/protocol/02-fleet-management.md §7.1, §11).

A command waits for the answer only so long; the call goes on beside it on a connection of its own, and what
the node shows afterwards decides. Nothing here is stored: after a restart only the node can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from hive_shared.cln import ClnError

from ..ports_commands import Node


class LongCalls:
    """Calls under way, by command."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def answer(
        self, command_id: str, method: str, params: Mapping[str, object], *, wait_s: float, held_s: float
    ) -> dict[str, Any] | None:
        """The node's answer, or None when there is none within `wait_s`; the call is held on to for `held_s`.

        Raises ClnError, ClnTimeout when the connection was given up.
        """
        return await self.result(command_id, self._node.call(method, params, timeout=held_s), wait_s=wait_s)

    async def result(
        self, command_id: str, call: Coroutine[Any, Any, dict[str, Any]], *, wait_s: float
    ) -> dict[str, Any] | None:
        """As `answer` for a call that says by itself how long it is held on to."""
        task = asyncio.create_task(call)
        # Nobody may come back for its failure.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._tasks[command_id] = task
        try:
            found = await asyncio.wait_for(asyncio.shield(task), wait_s)
        except TimeoutError:
            return None
        except BaseException:
            self.forget(command_id)
            raise
        self.forget(command_id)
        return found

    def running(self, command_id: str) -> bool:
        """Whether the node has not answered yet."""
        task = self._tasks.get(command_id)
        return task is not None and not task.done()

    def refusal(self, command_id: str) -> ClnError | None:
        """What the node refused the call with after nobody waited any more; None when it did not or that is
        not known here."""
        task = self._tasks.get(command_id)
        if task is None or not task.done() or task.cancelled():
            return None
        error = task.exception()
        return error if isinstance(error, ClnError) and not error.outcome_unknown else None

    def forget(self, command_id: str) -> None:
        """The command has its end."""
        self._tasks.pop(command_id, None)
