"""Profiles and offers of the advisor market, as documents and as events (04 §2 to §5)."""

from __future__ import annotations

import copy
import json
from typing import Any

import market_documents as made
import pytest
from hive_shared import vc
from hive_shared.crypto import xonly_pubkey
from hive_shared.errors import InvalidParams
from hive_shared.market import market_events, offer, profile, words
from hive_shared.market.market_events import Deletion, OfferAdvert, ProfileAdvert, Tombstone
from hive_shared.nostr.event import build
from hypothesis import given, settings
from hypothesis import strategies as st

ADVISOR, OTHER = made.key(1), made.key(2)
DID = vc.did_of(xonly_pubkey(ADVISOR))
VECTOR = (
    '{"@context":["https://www.w3.org/ns/credentials/v2","https://hive.lightning/marketplace/v1"],'
    '"credentialSubject":{"availability":{},"capabilities":{"primary":["monitoring"]},"displayName":"Hex",'
    f'"id":"{DID}","pricing":{{"models":[{{"monthlyRate":500,"type":"subscription"}}]}},"version":"1.0.0"}},'
    f'"id":"urn:uuid:1","issuer":"{DID}","proof":{{"@context":["https://www.w3.org/ns/credentials/v2",'
    '"https://hive.lightning/marketplace/v1"],"created":"2026-02-02T02:40:00Z","cryptosuite":"bip340-jcs-2025",'
    '"proofPurpose":"assertionMethod","proofValue":"z3CViNa3fcyzVFDAPY4gxFa3dHnn2rduZDEXUCfgSsELEmHhYK3KV3oYkrDMxNcuHgVNxUh9ZtX2iKfoAnAZ6ZqEc","type":"DataIntegrityProof",'
    f'"verificationMethod":"{DID}#key1"}},"type":["VerifiableCredential","HiveServiceProfile"],'
    '"validFrom":"2026-02-02T02:40:00Z","validUntil":"2026-05-03T02:40:00Z"}'
)


def refused(event: Any) -> str | None:
    with pytest.raises(InvalidParams) as error:
        market_events.read(event)
    return error.value.reason


# -- words -------------------------------------------------------------------------------------------------


def test_words_are_read_in_every_form() -> None:
    assert words.word("Fee_Optimization") == words.word("fee optimization") == "fee-optimization"
    assert words.word("htlc-management") == "htlc-resolution"
    assert words.word("brand-new-9") == "brand-new-9"
    assert [words.word(one) for one in ("", "ä", "a" * 41, "x/y", 5, None)] == [None] * 6
    assert words.schemas_of(["high-volume-routing", "fee-optimization"]) == (
        "hive:fee-policy/*",
        "hive:config/*",
    )


def test_versions_are_ordered_as_semver_says() -> None:
    rising = [
        "0.9.9",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-2.x",
        "1.0.0",
        "1.2.0",
        "1.10.0",
    ]
    rising.insert(1, rising.pop(4))
    keys = [words.version_key(one) for one in rising]
    assert None not in keys and keys == sorted(keys, key=lambda one: one or (0, 0, 0, False, ()))
    assert words.version_key("1.0.0+b") == words.version_key("1.0.0")
    assert [words.version_key(one) for one in ("1", "1.0", "01.0.0", "1.0.0-", 1, None, "1.0.0\n")] == [
        None
    ] * 7


def test_names_that_are_shown() -> None:
    assert words.display_name("Ｈex ") == "Hex"
    for wrong in ("", " ", "a\u202eb", "a\nb", "a\x00", "x" * 65, None, 4, "\ud800"):
        assert words.display_name(wrong) is None


# -- profiles ----------------------------------------------------------------------------------------------


def test_a_profile_there_and_back() -> None:
    built = made.a_profile(ADVISOR)
    again = profile.read(built.text())
    assert again == built and profile.prover(again) == xonly_pubkey(ADVISOR)
    assert (again.monthly_sats, again.base_fee_sats, again.response_s, again.uptime_pct) == (
        5000,
        5000,
        300,
        99.5,
    )
    assert again.capabilities == ("fee-optimization", "expansion-planning") and again.trial_days == 14
    assert again.valid_until - again.valid_from == 90 * 86_400


def test_a_pinned_profile() -> None:
    found = profile.read(VECTOR)
    assert profile.prover(found) == xonly_pubkey(ADVISOR)
    assert found.content_hash() == "b2e97e8e42f9eb08c05d1862fb791ad69cadd3d208b1c8a9d3becbbbbd475386"
    assert found.text() == VECTOR
    assert found.primary == ("monitoring-only",) and found.accepting is None and found.max_nodes is None


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("@context", ["https://www.w3.org/ns/credentials/v2"], "@context"),
        ("type", ["VerifiableCredential"], "type"),
        ("issuer", "did:nostr:" + "0" * 64, "issuer"),
        ("validUntil", "2026-05-03T02:40:01Z", "90 days"),
        ("validUntil", "2026-02-02T02:40:00Z", "90 days"),
        ("validFrom", "yesterday", "validFrom"),
        ("id", 5, "profile.id"),
        ("credentialSubject", [], "credentialSubject"),
        ("credentialSubject.id", "alice", "did:nostr"),
        ("credentialSubject.displayName", "a\u202eb", "displayName"),
        ("credentialSubject.version", "1", "version"),
        ("credentialSubject.capabilities", {}, "at least one"),
        ("credentialSubject.capabilities", {"primary": ["Ä"]}, "words"),
        ("credentialSubject.capabilities", {"primary": [f"w{n}" for n in range(33)]}, "at most 32"),
        ("credentialSubject.supportedSchemas", ["x"], "schemas like"),
        ("credentialSubject.pricing", None, "pricing"),
        ("credentialSubject.pricing.models", [], "at least one pricing"),
        ("credentialSubject.pricing.models", ["x"], "list of objects"),
        ("credentialSubject.pricing.models", [{"type": "gift"}], "per_action"),
        ("credentialSubject.pricing.models", [{"type": "hybrid", "monthlyRate": 1.5}], "integer"),
        ("credentialSubject.pricing.models", [{"type": "hybrid", "monthlyRate": -1}], "integer"),
        ("credentialSubject.pricing.models", [{"type": "hybrid", "monthlyRate": True}], "integer"),
        ("credentialSubject.pricing.models", [{"type": "hybrid", "currency": "usd"}], "sats"),
        ("credentialSubject.pricing.models", [{"type": "hybrid", "performanceSharePct": 101}], "0 to 100"),
        (
            "credentialSubject.pricing.models",
            [{"type": "hybrid", "baseFeeRange": {"min": 2, "max": 1}}],
            "below",
        ),
        ("credentialSubject.pricing.acceptableMints", ["http://mint.example"], "https"),
        ("credentialSubject.pricing.escrowRequired", 1, "true or false"),
        ("credentialSubject.availability", None, "availability"),
        ("credentialSubject.availability.maxNodes", -1, "integer"),
        ("credentialSubject.availability.responseTimeSla", "soon", "5m"),
        ("credentialSubject.availability.uptimeTarget", "99", "number"),
        ("credentialSubject.trialTerms", 5, "object"),
        ("credentialSubject.reputationRefs", ["x" * 257], "texts"),
    ],
)
def test_what_a_profile_must_not_say(path: str, value: Any, says: str) -> None:
    document = copy.deepcopy(dict(made.a_profile(ADVISOR).document))
    place: Any = document
    *way, last = path.split(".")
    for step in way:
        place = place[step]
    place[last] = value
    with pytest.raises(InvalidParams, match=says):
        profile.parse(document)


def test_text_that_is_no_document() -> None:
    text = made.a_profile(ADVISOR).text()
    for wrong in ("", "[]", text + "x", text.replace('"issuer"', '"id":"x","issuer"'), "[" * 10_000):
        with pytest.raises(InvalidParams):
            profile.read(wrong)
    deep: Any = "x"
    for _ in range(12):
        deep = {"deep": deep}
    with pytest.raises(InvalidParams, match="nested"):
        profile.read(json.dumps({**json.loads(text), "more": deep}))
    with pytest.raises(InvalidParams) as error:
        profile.read(json.dumps({**json.loads(text), "more": "x" * profile.MAX_BYTES}))
    assert error.value.reason == "too_large"


def test_unknown_fields_are_kept_and_signed() -> None:
    built = made.a_profile(ADVISOR, infrastructure={"redundancy": "multi-region"}, motto="low fees")
    assert profile.prover(profile.read(built.text())) == xonly_pubkey(ADVISOR)
    assert '"motto":"low fees"' in built.text()


def test_whose_proof_a_profile_needs() -> None:
    document = dict(made.a_profile(ADVISOR).document)
    foreign = {**document, "proof": vc.prove(document, OTHER, made.AT)}
    late = {**document, "proof": vc.prove(document, ADVISOR, made.AT + 86_401)}
    other = {**document, "proof": {"type": "EcdsaSecp256k1Signature2019", "proofValue": "x"}}
    for doc, reason in (
        (foreign, "issuer_mismatch"),
        (late, "proof_malformed"),
        (other, "proof_unsupported"),
        ({**document, "proof": None}, "proof_missing"),
        ({**document, "validUntil": "2026-03-03T02:40:00Z"}, "proof_invalid"),
    ):
        with pytest.raises(InvalidParams) as error:
            profile.prover(profile.parse(doc))
        assert error.value.reason == reason
    did = "did:cid:bagaaierabc"
    of_did = {**other, "issuer": did, "credentialSubject": {**document["credentialSubject"], "id": did}}
    assert profile.prover(profile.parse(of_did)) is None


def test_a_name_is_written_as_it_will_be_shown() -> None:
    with pytest.raises(InvalidParams, match="has to be written 'Hex'"):
        made.a_profile(ADVISOR, displayName="Ｈex")


# -- events ------------------------------------------------------------------------------------------------


def test_a_profile_travels_with_all_its_tags() -> None:
    event = made.profile_event(ADVISOR)
    tags = {tag[0]: list(tag[1:]) for tag in event.tags if tag[0] != "t"}
    assert event.kind == 38380 and event.tag_values("t") == [
        *("hive-advisor", "lightning", "advisor-fee-optimization", "advisor-expansion-planning")
    ]
    assert tags == {
        "d": [DID],
        "name": ["Hex Fleet Advisor"],
        "capabilities": ["fee_optimization", "expansion_planning"],
        "pricing-model": ["subscription"],
        "base-fee-sats": ["5000"],
        "nodes-managed": ["10"],
        "uptime": ["99.5"],
        "tenure-days": ["0"],
        "version": ["1.0.0"],
        "status": ["active"],
        "p": [xonly_pubkey(ADVISOR)],
        "alt": [
            "Lightning node advisor Hex Fleet Advisor — fee optimization, expansion planning — from 5000 sats"
        ],
    }
    advert = market_events.read(event)
    assert isinstance(advert, ProfileAdvert) and advert.advisor_id == DID and advert.claimed_did is None
    assert (advert.did_state, advert.flags, advert.status) == ("verified", (), "active")


def test_an_offer_travels_with_all_its_tags() -> None:
    event = made.offer_event(
        ADVISOR,
        capabilities=["fee-optimization", "rebalancing"],
        trial_days=14,
        max_channels=50,
        min_node_capacity=10_000_000,
        sla_response_s=300,
        sla_uptime=99.5,
        methods=["bolt11", "bolt12", "cashu"],
        description="Continuous fee tuning, weekly report.",
    )
    until = str(made.AT + 14 * 86_400)
    for tag in (
        ("d", "offer-7f3c"),
        ("capability", "fee_optimization"),
        ("capability", "rebalancing"),
        ("t", "advisor-rebalancing"),
        ("pricing-model", "subscription"),
        ("price", "5000", "sat", "month"),
        ("trial-available", "true"),
        ("trial-days", "14"),
        ("max-channels", "50"),
        ("min-node-capacity", "10000000"),
        ("sla-response-time", "300"),
        ("sla-uptime", "99.5"),
        ("expiration", until),
        ("expires", until),
        ("payment-methods", "bolt11", "bolt12", "cashu"),
        ("alt", "Node management — fee optimization, rebalancing — 5000 sats/month"),
    ):
        assert tag in event.tags, tag
    advert = market_events.read(event)
    assert isinstance(advert, OfferAdvert)
    assert advert.offer.trial_days == 14 and advert.offer.expires_at == made.AT + 14 * 86_400
    assert advert.offer.methods == ("bolt11", "bolt12", "cashu") and advert.offer.monthly_sats == 5000


@given(
    capabilities=st.lists(st.sampled_from(list(words.CAPABILITIES)), min_size=1, max_size=11, unique=True),
    model=st.sampled_from(list(words.PRICING_TAGS)),
    price=st.integers(0, words.MAX_SATS),
    period=st.sampled_from(offer.PERIODS),
    share=st.none() | st.integers(0, 400).map(lambda n: n / 4),
    trial=st.sampled_from([0, 7, 14, 30]),
    days=st.integers(7, 30),
    text=st.text(max_size=20),
)
@settings(max_examples=60)
def test_every_offer_is_read_as_it_was_written(
    capabilities: list[str],
    model: str,
    price: int,
    period: str,
    share: float | None,
    trial: int,
    days: int,
    text: str,
) -> None:
    document: dict[str, Any] = {
        "capabilities": capabilities,
        "pricing_model": model,
        "price_sats": price,
        "period": period,
        "trial_days": trial,
        "expires_in_days": days,
        "description": text,
    } | ({} if share is None else {"performance_pct": share})
    written = offer.draft(document, offer_id="a", now=made.AT)
    unsigned = market_events.offer_event(written, pubkey=xonly_pubkey(ADVISOR), profile_id=DID)
    advert = market_events.read(build(ADVISOR, *unsigned, created_at=made.AT))
    assert isinstance(advert, OfferAdvert) and advert.offer == written


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"capabilities": []}, "at least one"),
        ({"pricing_model": "gift"}, "one of"),
        ({"price_sats": None}, "sats"),
        ({"price_sats": 1.5}, "integer"),
        ({"period": "year"}, "one of"),
        ({"trial_days": 6}, "7 to 30"),
        ({"expires_in_days": 31}, "7 to 30"),
        ({"expires_in_days": True}, "7 to 30"),
        ({"methods": ["gold"]}, "bolt11"),
        ({"offer_id": "A:b"}, "a-z"),
        ({"description": "x" * 8_193}, "8192"),
        ({"description": "\ud800"}, "8192"),
        ({"colour": "red"}, "unknown fields"),
    ],
)
def test_what_an_offer_must_not_say(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidParams, match=says):
        made.offer_event(ADVISOR, **fields)


def test_adverts_of_strangers_are_refused_by_name() -> None:
    event, sale = made.profile_event(ADVISOR), made.offer_event(ADVISOR)
    for changed, reason in (
        (made.changed(event, ADVISOR, drop=["t"]), "foreign"),
        (made.changed(event, ADVISOR, kind=38383), "kind"),
        (made.changed(event, ADVISOR, add=[["d", "x"]]), "d"),
        (made.changed(event, ADVISOR, drop=["d"], add=[["d", "x"]]), "d"),
        (made.changed(event, ADVISOR, drop=["status"], add=[["status", "?"]]), "tag"),
        (made.changed(event, ADVISOR, content="{}"), "content"),
        (made.changed(event, ADVISOR, content=event.content + " " * 32_768), "too_large"),
        (made.changed(event, ADVISOR, content=event.content.replace("Hex", "Fex")), "proof_invalid"),
        (made.changed(sale, ADVISOR, drop=["d"]), "d"),
        (made.changed(sale, ADVISOR, drop=["expiration"]), "expiration"),
        (made.changed(sale, ADVISOR, created_at=made.AT - 31 * 86_400), "expiration"),
        (made.changed(sale, ADVISOR, drop=["capability"]), "tag"),
        (made.changed(sale, ADVISOR, drop=["price"], add=[["price", "5", "usd", "month"]]), "tag"),
        (made.changed(sale, ADVISOR, drop=["price"], add=[["price", "x", "sat", "month"]]), "tag"),
        (made.changed(sale, ADVISOR, drop=["price"]), "tag"),
        (made.changed(sale, ADVISOR, drop=["pricing-model"]), "tag"),
        (made.changed(sale, ADVISOR, add=[["sla-uptime", "1e9"]]), "tag"),
        (made.changed(sale, ADVISOR, add=[["max-channels", "-1"]]), "tag"),
        (made.changed(sale, ADVISOR, content="ä" * 4_097), "too_large"),
        (build(ADVISOR, 5, [["k", "38380"]], "", made.AT), "tag"),
    ):
        assert refused(changed) == reason, changed.tags


def test_a_stolen_profile_stays_its_thiefs() -> None:
    copied = made.changed(made.profile_event(ADVISOR), OTHER)
    advert = market_events.read(copied)
    assert isinstance(advert, ProfileAdvert) and advert.did_state == "failed"
    assert advert.advisor_id == vc.did_of(xonly_pubkey(OTHER)) and advert.claimed_did == DID


def test_tags_that_contradict_the_document_are_noted() -> None:
    event = made.profile_event(ADVISOR)
    for name, tag in (
        ("name", ["name", "Somebody Else"]),
        ("capabilities", ["capabilities", "rebalancing"]),
        ("base-fee-sats", ["base-fee-sats", "1"]),
    ):
        advert = market_events.read(made.changed(event, ADVISOR, drop=[name], add=[tag]))
        assert isinstance(advert, ProfileAdvert) and advert.flags == ("inconsistent",)


def test_early_software_is_read_as_legacy() -> None:
    event = made.profile_event(ADVISOR)
    for old in (
        made.changed(event, ADVISOR, drop=["d"]),
        made.changed(event, ADVISOR, drop=["t"], add=[["t", "hive-advisor-profile"]]),
    ):
        advert = market_events.read(old)
        assert isinstance(advert, ProfileAdvert) and advert.flags == ("legacy",)


def test_the_end_of_an_advert() -> None:
    kind, tags, content = market_events.tombstone_event(38380, DID, ends_at=made.AT + 9)
    grave = build(ADVISOR, kind, tags, content, made.AT)
    assert grave.expiration == made.AT + 9 + 86_400
    assert market_events.read(grave) == Tombstone(event=grave, d=DID)
    unsigned = market_events.deletion_event(xonly_pubkey(ADVISOR), 38380, DID, ["a" * 64])
    end = build(ADVISOR, *unsigned, created_at=made.AT - 1)
    assert ("k", "38380") in end.tags
    # The address keeps the colons of its id.
    assert market_events.read(end) == Deletion(event=end, ids=("a" * 64,), addresses=((38380, DID),))
    foreign = build(OTHER, *unsigned, created_at=made.AT)
    assert market_events.read(foreign) == Deletion(event=foreign, ids=("a" * 64,), addresses=())


def test_many_capabilities_fit_the_tags_that_readers_take() -> None:
    levels = {level: [f"{level}-{n}" for n in range(32)] for level in ("primary", "secondary")}
    event = made.profile_event(ADVISOR, capabilities=levels)
    assert len(event.tags) <= 100 and max(map(len, event.tags)) <= 32
    advert = market_events.read(event)
    assert isinstance(advert, ProfileAdvert) and not advert.flags


_LEAVES = (
    st.none() | st.booleans() | st.integers(-5, 10**16) | st.floats(allow_nan=False) | st.text(max_size=8)
)
_JUNK = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_PLACES = st.sampled_from(
    ["@context", "type", "id", "issuer", "validFrom", "validUntil", "credentialSubject", "proof"]
)
_INNER = st.sampled_from(list(made.subject()))


@given(_PLACES | st.tuples(_INNER), _JUNK)
@settings(max_examples=150)
def test_junk_in_a_profile_is_refused_or_read(place: Any, junk: Any) -> None:
    document: dict[str, Any] = copy.deepcopy(_GOOD)
    if isinstance(place, tuple):
        document["credentialSubject"][place[0]] = junk
    else:
        document[place] = junk
    try:
        found = profile.parse(document)
        assert profile.prover(found) in (None, xonly_pubkey(ADVISOR))
    except InvalidParams as error:
        assert error.detail


_GOOD = dict(made.a_profile(ADVISOR).document)
