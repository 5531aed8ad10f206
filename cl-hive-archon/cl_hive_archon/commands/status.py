"""RPC surface: hello and status. docs/protocol/09-archon.md section 15."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hive_shared.runtime import MethodSpec, Param
from hive_shared.siblings import hello_spec

from cl_hive_archon.services.status_service import StatusService

Hello = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def methods(hello: Hello, status: Callable[[], StatusService]) -> list[MethodSpec]:
    """Declarations; both collaborators exist only after ``init``, so they are asked for late."""

    async def show(params: dict[str, Any]) -> dict[str, Any]:
        return status().status(verbose=params["verbose"])

    return [
        hello_spec("archon", hello),
        MethodSpec(
            "hive-archon-status",
            "R",
            (Param("verbose", "bool", default=False),),
            show,
            "Identity, siblings, options and what is missing, as they are.",
        ),
    ]
