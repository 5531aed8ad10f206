"""RPC surface: hello, status, config and the older names that mean the same.

docs/protocol/05-coordination.md section 21, docs/protocol/00-registry-fleet.md section 3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hive_shared.errors import NotFound
from hive_shared.runtime import MethodSpec, Param
from hive_shared.siblings import hello_spec

from cl_hive.services.status_service import StatusService

Hello = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Rows = Callable[[], list[dict[str, Any]]]
VIEWS = ("summary", "health", "loops", "features")


def methods(hello: Hello, status: Callable[[], StatusService], options: Rows) -> list[MethodSpec]:
    """Declarations; the collaborators exist only after ``init``, so they are asked for late."""

    async def show(params: dict[str, Any]) -> dict[str, Any]:
        return status().view(params["view"])

    async def config(params: dict[str, Any]) -> dict[str, Any]:
        rows = options()
        wanted = params["option"]
        if wanted is not None:
            rows = [row for row in rows if row["name"] in (wanted, f"hive-{wanted}")]
            if not rows:
                raise NotFound(f"cl-hive has no option {wanted[:64]}")
        return {"count": len(rows), "items": rows}

    return [
        hello_spec("hive", hello),
        MethodSpec(
            "hive-status",
            "R",
            (Param("view", "str", default="summary", choices=VIEWS),),
            show,
            "Membership, siblings, loops and features, as they are.",
        ),
        MethodSpec("hive-config", "R", (Param("option", "str"),), config, "Options in force and where from."),
        *_older_names(status),
    ]


def _older_names(status: Callable[[], StatusService]) -> list[MethodSpec]:
    def spec(name: str, answer: Callable[[StatusService], dict[str, Any]]) -> MethodSpec:
        async def run(params: dict[str, Any]) -> dict[str, Any]:
            service = status()
            service.require_legacy(name, "hive-status")
            return answer(service)

        return MethodSpec(name, "R", (), run, "Older name of hive-status.")

    return [
        spec("hive-health", lambda service: service.view("health")),
        spec("hive-siblings", StatusService.siblings),
        spec("hive-phase6-plugins", StatusService.siblings),
    ]
