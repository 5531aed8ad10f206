"""The setup session on this node's adapters; part of the composition root."""

import os
from collections.abc import Callable

from hive_shared.cln import ClnClient
from hive_shared.store import Db

from cl_hive_comms.options import PREFIX, Config, option_specs
from cl_hive_comms.plugin.fault_point import fault_point
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.selfcheck_service import SelfcheckService
from cl_hive_comms.services.setup_questions import SetupQuestions
from cl_hive_comms.services.setup_service import SetupService
from cl_hive_comms.storage.setup_store import SetupStore


class OwnOptions:
    """Options of this plugin, kept by the node."""

    def __init__(self, cln: ClnClient, config: Callable[[], Config]) -> None:
        self._cln, self._config = cln, config
        self._specs = {spec.name: spec for spec in option_specs()}

    def current(self, name: str) -> str:
        """The value in force."""
        return str(self._config().get(name))

    def read(self, name: str, text: str) -> str:
        """The value as the option would take it. Raises ValueError."""
        return str(self._specs[PREFIX + name].parse(text))

    async def set(self, name: str, value: str) -> None:
        """Have the node change it, so that listconfigs, the configuration file and we agree."""
        await self._cln.setconfig(PREFIX + name, value)


def compose_setup(
    *,
    db: Db,
    cln: ClnClient,
    network: str,
    config: Callable[[], Config],
    policy: PolicyService,
    advisors: AdvisorService,
    aliases: AliasService,
    receipts: ReceiptService,
    alerts: AlertService,
    selfcheck: Callable[[], SelfcheckService],
    log: Log,
) -> SetupService:
    """The service over the plugin's other services."""
    options = OwnOptions(cln, config)
    questions = SetupQuestions(
        policy=policy, advisors=advisors, aliases=aliases, options=options, selfcheck=selfcheck
    )
    return SetupService(
        db,
        SetupStore(),
        questions,
        policy=policy,
        advisors=advisors,
        receipts=receipts,
        alerts=alerts,
        options=options,
        now=unix_now,
        random_bytes=os.urandom,
        log=log,
        fault=fault_point(network),
    )
