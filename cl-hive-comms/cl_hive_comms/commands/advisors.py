"""hive-client-authorize, -revoke, -credential and hive-mgmt-credential-list, -revoke
(docs/protocol/08-client-and-plugins.md §5.2, docs/protocol/02-fleet-management.md §11)."""

from collections.abc import Callable
from typing import Any

from hive_shared import credential as credentials
from hive_shared.credential import Credential
from hive_shared.errors import InvalidParams, NotFound
from hive_shared.nostr.keys import npub_encode, parse_pubkey
from hive_shared.runtime_spec import MethodSpec, Param

from cl_hive_comms.domain.advisor import GOSSIP, MAX_DAYS, CredentialRow, days_left
from cl_hive_comms.domain.gossip import GossipRow
from cl_hive_comms.domain.names import is_index
from cl_hive_comms.domain.trial import trial_days
from cl_hive_comms.services.advisor_requests import Dismissed, Hire, Hired
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.gossip_credentials import GossipCredentials
from cl_hive_comms.services.trust_service import TrustService
from cl_hive_comms.services.vc_verifier import VcVerifier

_MAX_TEXT = 500
DEFAULT_DAYS = 30


class AdvisorCommands:
    """The family around advisors and their credentials."""

    def __init__(
        self,
        service: Callable[[], AdvisorService],
        aliases: Callable[[], AliasService],
        table: Callable[[], CredentialService],
        trust: Callable[[], TrustService],
        verifier: Callable[[], VcVerifier],
        gossip: Callable[[], GossipCredentials],
        now: Callable[[], int],
    ) -> None:
        self._service, self._aliases, self._table, self._now = service, aliases, table, now
        self._trust, self._verifier, self._gossip = trust, verifier, gossip

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-client-authorize",
                "X",
                _AUTHORIZE,
                self._authorize,
                "Let an advisor manage this node: advisor=npub1.. or a name, access=monitoring, fees, ..",
            ),
            MethodSpec(
                "hive-client-revoke",
                "A",
                (
                    Param("advisor", "str", default=""),
                    Param("all", "bool", default=False),
                    Param("reason", "str", default="", maximum=_MAX_TEXT),
                ),
                self._revoke,
                "End what an advisor may do, at once. all=true ends it for every advisor.",
            ),
            MethodSpec(
                "hive-client-credential",
                "R",
                (Param("advisor", "str", required=True), Param("raw", "bool", default=False)),
                self._credential,
                "What an advisor may do, within which limits, until when.",
            ),
            MethodSpec(
                "hive-mgmt-credential-list",
                "R",
                (Param("agent_id", "str", default=""), Param("node_id", "str", default="")),
                self._list,
                "Credentials that this node issued, and those that other nodes told it of (source gossip).",
            ),
            MethodSpec(
                "hive-mgmt-credential-revoke",
                "X",
                (
                    Param("credential_id", "str", required=True),
                    Param("reason", "str", default="", maximum=_MAX_TEXT),
                ),
                self._revoke_credential,
                "Revoke one credential by its id.",
            ),
        ]

    async def _authorize(self, params: dict[str, Any]) -> dict[str, Any]:
        advisor, npub = params["advisor"], params["advisor_npub"]
        if is_index(advisor) and not npub and not params["advisor_did"]:
            pubkey, name = self._aliases().found_at(advisor, params["result_id"])
            # A stranger's name is taken over where nobody has one like it.
            advisor, npub = self._aliases().free_name(name), npub_encode(pubkey)
        elif params["result_id"]:
            raise InvalidParams("result_id goes with the index of a search result, for example advisor=1")
        if params["template"] and params["access"] not in ("", params["template"]):
            raise InvalidParams("give access or template, not both: they mean the same")
        days = trial_days(params["trial"])
        if days and params["days"] not in (None, days):
            raise InvalidParams(f"a trial says its own length: trial={params['days']}; leave days out")
        hired = await self._service().authorize(
            Hire(
                advisor=advisor,
                access=params["template"] or params["access"] or "monitoring",
                days=params["days"] or DEFAULT_DAYS,
                allow=_words(params["allow"]),
                max_fee_change_pct=params["max_fee_change"],
                max_rebalance_sats=params["max_rebalance"],
                daily_limit_sats=params["daily_limit_sats"],
                note=params["note"],
                npub=npub,
                did=params["advisor_did"],
                trial_days=days,
                confirm=params["confirm"],
            )
        )
        return shown_hire(hired)

    async def _revoke(self, params: dict[str, Any]) -> dict[str, Any]:
        if bool(params["advisor"]) == params["all"]:
            raise InvalidParams("name one advisor, or give all=true and no advisor")
        done = await self._service().revoke(params["advisor"], params["reason"], everyone=params["all"])
        return _dismissed(done)

    async def _credential(self, params: dict[str, Any]) -> dict[str, Any]:
        advisor = self._aliases().resolve(params["advisor"])
        row = self._table().active_of(advisor.advisor_id)
        if row is None:
            raise NotFound(f"{self._aliases().name_of(advisor)!a} has no active credential")
        if params["raw"]:
            return {
                "credential": credentials.to_doc(row.credential),
                "hash": credentials.doc_hash(row.credential),
            }
        trust = float(self._trust().of(row))
        return {"name": self._aliases().name_of(advisor), **self._summary(row), "trust_now": f"{trust:.4g}"}

    async def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        wanted = params["agent_id"]
        if wanted.lower().startswith(("npub1", "nostr:")):
            wanted = _key(wanted)
        items = [
            {
                "name": self._name(row),
                "status": row.status,
                "format": row.format,
                "source": row.source,
                **_parties(row.credential),
                **self._summary(row),
                **_end(row),
            }
            for row in self._table().rows()
            if _is_about(row.credential, wanted, params["node_id"])
        ]
        items += [
            _told(row, row.credential, self._now())
            for row in await self._gossip().known()
            if row.credential is not None and _is_about(row.credential, wanted, params["node_id"])
        ]
        return {"count": len(items), "items": items}

    async def _revoke_credential(self, params: dict[str, Any]) -> dict[str, Any]:
        done = await self._service().revoke_credential(params["credential_id"], params["reason"])
        return {"credential_id": params["credential_id"], "revoked": True, "cancelled": done.cancelled}

    def _summary(self, row: CredentialRow) -> dict[str, Any]:
        return {
            **_terms(row.credential, self._now()),
            "trust": str(credentials.number_of(row.trust)),
            "trust_pinned": row.trust_pinned,
            "received_by_advisor": row.acked_at is not None,
            **self._checked(row),
        }

    def _checked(self, row: CredentialRow) -> dict[str, Any]:
        """What cl-hive-archon said last of a credential that it issued."""
        if row.format != "vc":
            return {}
        last = self._verifier().last(row)
        if last is None:
            return {"verified": "never", "verified_at": None}
        return {"verified": last.status, "verified_at": last.at or None}

    def _name(self, row: CredentialRow) -> str:
        advisor = self._table().advisor(row.advisor_id)
        return row.advisor_id if advisor is None else self._aliases().name_of(advisor)


_AUTHORIZE = (
    Param("advisor", "str", default=""),
    Param("access", "str", default=""),
    Param("days", "int", minimum=1, maximum=MAX_DAYS),
    Param("allow", "any"),
    Param("max_fee_change", "int", minimum=1, maximum=100),
    Param("max_rebalance", "int", minimum=0),
    Param("daily_limit_sats", "int", minimum=0),
    Param("trial", "any"),
    Param("note", "str", default="", maximum=_MAX_TEXT),
    Param("result_id", "str", default=""),
    Param("advisor_did", "str", default=""),
    Param("advisor_npub", "str", default=""),
    Param("template", "str", default=""),
    Param("confirm", "bool", default=False),
)


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InvalidParams("allow is a list of words such as fees,monitoring")
    return tuple(word.strip() for word in value if word.strip())


def _key(text: str) -> str:
    try:
        return parse_pubkey(text)
    except ValueError as error:
        raise InvalidParams(f"agent_id: {error}") from None


def _is_about(document: Credential, agent: str, node_id: str) -> bool:
    return agent in ("", document.agent_id, document.agent_key) and node_id in ("", document.node_id)


def _terms(document: Credential, now: int) -> dict[str, Any]:
    return {
        "credential_id": document.credential_id,
        "tier": document.tier.word,
        "schemas": list(document.allowed_schemas),
        "constraints": dict(document.constraints),
        "permissions": [name for name, granted in document.permissions.items() if granted],
        "valid_from": document.valid_from,
        "valid_until": document.valid_until,
        "days_left": days_left(document.valid_until, now),
    }


def _parties(document: Credential) -> dict[str, Any]:
    """Who is who, by id: for lists that programs read, not for what people are shown."""
    return {"issuer_id": document.issuer_id, "node_id": document.node_id, "agent_id": document.agent_id}


def _told(row: GossipRow, document: Credential, now: int) -> dict[str, Any]:
    """A credential that authorises nobody here."""
    ended = {"revoked_at": row.revoked_at, "reason": row.revocation_reason or None}
    return {
        "name": None,
        "status": "known" if row.revoked_at is None else "revoked",
        "format": "native",
        "source": GOSSIP,
        **_parties(document),
        **_terms(document, now),
        **{name: value for name, value in ended.items() if value is not None},
    }


def _end(row: CredentialRow) -> dict[str, Any]:
    """How a credential that ended did."""
    told = {
        "superseded_by": row.superseded_by,
        "revoked_at": row.revoked_at,
        "reason": row.revocation_reason or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def shown_hire(hired: Hired) -> dict[str, Any]:
    """The answer to a hire."""
    result: dict[str, Any] = {
        "advisor_id": hired.advisor.advisor_id,
        "name": hired.name,
        "npub": npub_encode(hired.row.agent_key),
        "access": hired.template,
        "valid_until": hired.row.credential.valid_until,
        "credential_id": hired.row.credential_id,
        "trial_id": hired.trial_id,
        "delivery": "queued",
        "rune": hired.with_rune,
    }
    if hired.trial_id is not None:
        result["schemas"] = list(hired.row.credential.allowed_schemas)
    if hired.warnings:
        result["warning_look_alike"] = "; ".join(hired.warnings)
    return result


def _dismissed(done: Dismissed) -> dict[str, Any]:
    return {
        "revoked": list(done.names),
        "cancelled": done.cancelled,
        "rune_blacklisted": done.rune_blacklisted,
        "published": done.published,
    }
