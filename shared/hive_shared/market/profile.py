"""HiveServiceProfile: what an advisor says of itself, as one signed credential (04 §3).

The document's exact content counts, unknown fields included: it is kept as it came, and what is looked at
often stands beside it. Claims in it are the advisor's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .. import vc
from ..canonical import JsonValue, decode_object, encode
from ..crypto import Secret, xonly_pubkey
from ..errors import InvalidParams
from . import words
from .fields import Fields

CONTEXT: Final = (vc.CONTEXT, "https://hive.lightning/marketplace/v1")
TYPE: Final = "HiveServiceProfile"
MAX_BYTES: Final = 32_768
MAX_DEPTH: Final = 12
MAX_SPAN_S: Final = 90 * 86_400
AGING_S: Final = 30 * 86_400
_DURATION: Final = re.compile(r"([1-9]\d{0,6})([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SCHEMA: Final = re.compile(r"hive:[a-z0-9-]{1,40}/(?:v[0-9]{1,3}|\*)")
_SUBJECT: Final = re.compile(
    r"did:(?:nostr:[0-9a-f]{64}|cid:[A-Za-z0-9]{1,100}|key:z[1-9A-HJ-NP-Za-km-z]{1,100})"
)


class Price(msgspec.Struct, frozen=True):
    """One of the pricing models. Sats; `monthly_sats` is None where nothing is owed by the month."""

    model: str
    monthly_sats: int | None = None
    action_sats: int | None = None
    """The least that an action costs."""
    share_pct: float = 0
    methods: tuple[str, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed profile. Times are Unix seconds; None: the advisor does not say."""

    document: Mapping[str, JsonValue]
    subject_id: str
    name: str
    version: str
    valid_from: int
    valid_until: int
    primary: tuple[str, ...]
    secondary: tuple[str, ...]
    experimental: tuple[str, ...]
    specializations: tuple[str, ...]
    schemas: tuple[str, ...]
    prices: tuple[Price, ...]
    methods: tuple[str, ...]
    mints: tuple[str, ...]
    max_nodes: int | None
    load: int | None
    accepting: bool | None
    response_s: int | None
    uptime_pct: float | None
    trial: bool
    trial_days: int | None
    trial_fee_sats: int | None

    @property
    def capabilities(self) -> tuple[str, ...]:
        """All of them, the primary first, each once."""
        return tuple(dict.fromkeys((*self.primary, *self.secondary, *self.experimental)))

    @property
    def monthly_sats(self) -> int | None:
        """What a month costs at least, of the models that name it."""
        return min((one.monthly_sats for one in self.prices if one.monthly_sats is not None), default=None)

    @property
    def base_fee_sats(self) -> int | None:
        """`base-fee-sats` of the tags: the month, with prices per action alone the least of those."""
        lowest = min((one.action_sats for one in self.prices if one.action_sats is not None), default=None)
        return lowest if self.monthly_sats is None else self.monthly_sats

    @property
    def share_pct(self) -> float:
        """The highest share of performance that a model asks."""
        return max((one.share_pct for one in self.prices), default=0)

    def text(self) -> str:
        """The canonical text, as events carry it."""
        return encode(self.document).decode()

    def content_hash(self) -> str:
        """SHA-256 (hex) of the content without its proof: tells two documents of one version apart."""
        return vc.content_hash(self.document)


def read(text: str) -> Profile:
    """A profile of a stranger. Raises InvalidParams (reason malformed, too_large). Its proof: `prover`."""
    return _parsed(decode_object(text, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH, floats=True))


def kept(text: str) -> Profile:
    """A profile that was read before, from the text of `Profile.text`. Raises InvalidParams."""
    try:
        return _parsed(msgspec.json.decode(text, type=dict[str, Any]))
    except msgspec.DecodeError as error:
        raise InvalidParams(f"kept profile is no JSON: {error}", reason="malformed") from None


def parse(document: Mapping[str, JsonValue]) -> Profile:
    """Read a profile document strictly, except for its proof and for whether its time has come.

    Raises InvalidParams with the field that is wrong.
    """
    if _size(document) > MAX_BYTES:
        raise InvalidParams(f"profile is larger than {MAX_BYTES} bytes", reason="too_large")
    return _parsed(document)


def _parsed(document: Mapping[str, JsonValue]) -> Profile:
    whole = Fields("profile", document)
    _check_frame(whole)
    valid_from, valid_until = (vc.unix(document.get(name), name) for name in ("validFrom", "validUntil"))
    if not 0 < valid_until - valid_from <= MAX_SPAN_S:
        raise whole.bad("validUntil", "1 second to 90 days after validFrom")
    subject = whole.object("credentialSubject", required=True)
    subject_id = subject.matching("id", _SUBJECT, "did:nostr:<64 hex> or another DID")
    issuer = document.get("issuer")
    if isinstance(issuer, dict):
        issuer = issuer.get("id")
    if issuer != subject_id:
        raise whole.bad("issuer", "the id of the credentialSubject")
    return Profile(
        document=document,
        subject_id=subject_id,
        valid_from=valid_from,
        valid_until=valid_until,
        **_subject(subject),
        **_prices(subject.object("pricing", required=True)),
        **_availability(subject.object("availability", required=True)),
        **_trial(subject.object("trialTerms")),
    )


def prover(profile: Profile) -> str | None:
    """The Nostr key (64 hex) that proved the profile; None when its proofs are all of suites that only
    archon can check.

    Raises InvalidParams: no proof (`proof_missing`), a false one (`proof_invalid`), one made by another key
    than the Nostr key that the profile is of (`issuer_mismatch`), or a time of making more than a day from
    validFrom (`proof_malformed`).
    """
    found: str | None = None
    own = vc.key_of(profile.subject_id)
    for proof in vc.proofs(profile.document):
        try:
            key = vc.signer(profile.document, proof)
        except InvalidParams as error:
            if error.reason == "proof_unsupported" and own is None:
                continue
            raise
        if own not in (None, key) or found not in (None, key):
            raise InvalidParams(
                f"profile of {profile.subject_id} is proved by another key, {key}", reason="issuer_mismatch"
            )
        if abs(vc.created(proof) - profile.valid_from) > 86_400:
            raise InvalidParams("proof was made more than a day from validFrom", reason="proof_malformed")
        found = key
    return found


def build(
    subject: Mapping[str, JsonValue], secret: Secret, *, identity: str, now: int, days: int = 90
) -> Profile:
    """A signed profile of a Nostr key, from the subject's fields of §3 (`id` is set), valid from `now` on.

    `identity` is the `id` of the document (`urn:uuid:…`). Raises InvalidParams for whatever `parse` refuses,
    and for a display name that has to be written otherwise.
    """
    own = vc.did_of(xonly_pubkey(secret))
    document: dict[str, JsonValue] = {
        "@context": list(CONTEXT),
        "id": identity,
        "type": ["VerifiableCredential", TYPE],
        "issuer": own,
        "validFrom": vc.moment(now),
        "validUntil": vc.moment(now + days * 86_400),
        "credentialSubject": {**subject, "id": own},
    }
    profile = parse(document)
    if subject.get("displayName") != profile.name:
        raise InvalidParams(f"displayName has to be written {profile.name!r}", reason="malformed")
    return parse({**document, "proof": vc.prove(document, secret, now)})


def _size(document: Mapping[str, JsonValue]) -> int:
    try:
        return len(encode(document))
    except ValueError as error:
        raise InvalidParams(f"profile has no canonical form: {error}", reason="malformed") from None


def _check_frame(whole: Fields) -> None:
    context, kinds = whole.document.get("@context"), whole.document.get("type")
    if not isinstance(context, list) or context[:1] != [CONTEXT[0]] or CONTEXT[1] not in context:
        raise whole.bad("@context", f"a list of {CONTEXT[0]} first, and {CONTEXT[1]}")
    if not isinstance(kinds, list) or not {"VerifiableCredential", TYPE} <= {str(one) for one in kinds}:
        raise whole.bad("type", f"a list with VerifiableCredential and {TYPE}")
    whole.text("id", 128)


def _subject(subject: Fields) -> dict[str, Any]:
    name = words.display_name(subject.document.get("displayName"))
    if name is None:
        raise subject.bad("displayName", "1 to 64 visible characters")
    version = subject.document.get("version")
    if words.version_key(version) is None:
        raise subject.bad("version", "a version like 1.0.0")
    capabilities = subject.object("capabilities", required=True)
    levels = {level: capabilities.words(level) for level in ("primary", "secondary", "experimental")}
    if not any(levels.values()):
        raise subject.bad("capabilities", "at least one capability")
    subject.texts("reputationRefs", 256)
    return {
        **levels,
        "name": name,
        "version": version,
        "specializations": subject.words("specializations"),
        "schemas": subject.texts("supportedSchemas", 60, _SCHEMA, "schemas like hive:fee-policy/v1"),
    }


def _prices(pricing: Fields) -> dict[str, Any]:
    prices = tuple(_price(one) for one in pricing.objects("models"))
    if not prices:
        raise pricing.bad("models", "at least one pricing model")
    pricing.flag("escrowRequired")
    pricing.whole("escrowMinDangerScore", 10)
    accepted = pricing.texts("acceptedPayment", 20)
    offered = dict.fromkeys((*accepted, *(method for one in prices for method in one.methods)))
    return {
        "prices": prices,
        "methods": tuple(offered),
        "mints": pricing.urls("acceptableMints"),
    }


def _price(model: Fields) -> Price:
    kind = model.document.get("type")
    if kind not in words.PRICING_MODELS:
        raise model.bad("type", "one of " + ", ".join(words.PRICING_MODELS))
    if model.document.get("currency", "sats") != "sats":
        raise model.bad("currency", "sats")
    sums = ("monthlyRate", "baseMonthlySats", "includedActions", "overageRate", "measurementWindowDays")
    rate, base, *_ = (model.whole(name, words.MAX_SATS) for name in sums)
    fee = model.object("baseFeeRange")
    least, most = fee.whole("min", words.MAX_SATS), fee.whole("max", words.MAX_SATS)
    if least is not None and most is not None and least > most:
        raise fee.bad("max", f"not below min ({least})")
    model.flag("dangerScoreMultiplier")
    methods = model.texts("paymentMethods", 20)
    named = (model.text(one, 20) for one in ("basePaymentMethod", "bonusEscrowMethod", "escrowMethod"))
    model.text("bolt12Offer", 4_096)
    return Price(
        model=str(kind),
        monthly_sats=base if rate is None else rate,
        action_sats=least,
        share_pct=model.percent("performanceSharePct") or 0,
        methods=tuple(dict.fromkeys((*methods, *(one for one in named if one is not None)))),
    )


def _availability(availability: Fields) -> dict[str, Any]:
    response = availability.text("responseTimeSla", 16)
    found = _DURATION.fullmatch(response) if response is not None else None
    if response is not None and found is None:
        raise availability.bad("responseTimeSla", "a time like 60s, 5m, 2h or 1d")
    return {
        "max_nodes": availability.whole("maxNodes", 1_000_000),
        "load": availability.whole("currentLoad", 1_000_000),
        "accepting": availability.flag("acceptingNewClients"),
        "response_s": int(found[1]) * _SECONDS[found[2]] if found is not None else None,
        "uptime_pct": availability.percent("uptimeTarget"),
    }


def _trial(trial: Fields) -> dict[str, Any]:
    trial.texts("scope", 60)
    return {
        "trial": trial.flag("available") or False,
        "trial_days": trial.whole("durationDays", 365),
        "trial_fee_sats": trial.whole("flatFeeSats", words.MAX_SATS),
    }
