"""hive-client-report (docs/protocol/08-client-and-plugins.md §5.2, 02-fleet-management.md §10)."""

from collections.abc import Callable
from typing import Any

from hive_shared.errors import NotFound
from hive_shared.runtime_spec import MethodSpec, Param

from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.domain.report import PERIODS
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.report_service import ReportService


class ReportCommands:
    """What an advisor did, by the day or the week."""

    def __init__(
        self,
        reports: Callable[[], ReportService],
        aliases: Callable[[], AliasService],
        credentials: Callable[[], CredentialService],
    ) -> None:
        self._reports, self._aliases, self._credentials = reports, aliases, credentials

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-report",
                "R",
                (
                    Param("advisor", "str", required=True),
                    Param("period", "str", default="daily", choices=tuple(PERIODS)),
                    Param("limit", "int", default=7, minimum=1, maximum=500),
                    FORMAT,
                ),
                self._report,
                "Reports on an advisor's work: actions, uptime, answering time, revenue against the baseline"
                " of the hire; what was not measured says why.",
            )
        ]

    async def _report(self, params: dict[str, Any]) -> dict[str, Any]:
        aliases, reports, kind = self._aliases(), self._reports(), params["period"]
        advisor = aliases.resolve(params["advisor"].strip())
        row = self._credentials().active_of(advisor.advisor_id)
        if row is None:
            raise NotFound(
                f"{aliases.name_of(advisor)!a} has no live credential, so no report goes on; the review of a"
                " trial is in hive-client-trial action=review, the receipts in hive-client-receipts"
            )
        items = await reports.of(row, kind, params["limit"])
        result = {
            "advisor": aliases.name_of(advisor),
            "period": kind,
            "so_far": await reports.so_far(row, kind),
            "count": len(items),
            "items": items,
            "baseline": await reports.baseline(row),
        }
        return as_text(result) if params["format"] == "text" else result
