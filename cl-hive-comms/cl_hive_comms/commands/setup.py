"""hive-client-setup (docs/protocol/08-client-and-plugins.md §5.2, §7 "Setup")."""

import shlex
from collections.abc import Callable
from typing import Any

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import MethodSpec, Param

from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.services.ports_setup import Choice, View
from cl_hive_comms.services.setup_service import METHOD, SetupService


class SetupCommands:
    """The setup session: one question per call."""

    def __init__(self, service: Callable[[], SetupService]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                METHOD,
                "X",
                (
                    Param("session", "str", default=""),
                    Param("answer", "any"),
                    Param("cancel", "bool", default=False),
                    FORMAT,
                ),
                self._setup,
                "From a new node to an advisor by questions; nothing takes effect before the last one.",
            )
        ]

    async def _setup(self, params: dict[str, Any]) -> dict[str, Any]:
        session, answer = params["session"].strip(), params["answer"]
        if params["cancel"] and answer is not None:
            raise InvalidParams("give an answer, or cancel=true, not both")
        if params["cancel"]:
            view = await self._service().cancel(session)
        elif answer is not None:
            view = await self._service().answer(session, answer)
        else:
            view = await self._service().show(session)
        result = _shown(view)
        return as_text(result) if params["format"] == "text" else result


def _shown(view: View) -> dict[str, Any]:
    result: dict[str, Any] = {
        "session": view.session_id,
        "step": view.step,
        "prompt": view.question.prompt,
        **view.question.facts,
        "choices": [_choice(view.session_id, choice) for choice in view.question.choices],
        "done": view.done,
    }
    if view.next_step is not None:
        result["next"] = view.next_step
    if view.expires_at is not None:
        result["expires_at"] = view.expires_at
    if view.report:
        result["report"] = [msgspec.to_builtins(part) for part in view.report]
    if view.then:
        result["then"] = list(view.then)
    return result


def _choice(session: str, choice: Choice) -> dict[str, str]:
    typed = shlex.quote(f"answer={choice.typed}")
    return {
        "answer": choice.answer,
        "means": choice.means,
        "command": f"lightning-cli -k {METHOD} session={session} {typed}",
    }
