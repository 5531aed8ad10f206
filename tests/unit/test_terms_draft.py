"""What an operator proposes: the advisor's advert, and the operator's words on top (04 §12)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain.terms_draft import drafted
from hive_shared.errors import InvalidParams
from hive_shared.market import offer as offers
from hive_shared.market.terms import read_terms
from market_documents import AT, a_profile, key

PROFILE = a_profile(key(1))
OFFER = offers.draft(
    {
        "capabilities": ["rebalancing"],
        "pricing_model": "subscription",
        "price_sats": 4_000,
        "methods": ["bolt11"],
    },
    offer_id="o1",
    now=AT,
)


def made(profile: Any = PROFILE, offer: Any = None, **said: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "said": {},
        "scope": {},
        "tier": "",
        "pricing": {},
        "methods": ["bolt11"],
        **said,
    }
    return drafted(profile, offer, **given)


@pytest.mark.parametrize("offer", [None, OFFER])
def test_what_is_advertised_makes_terms_that_hold(offer: Any) -> None:
    found = read_terms(made(offer=offer))
    assert "hive:monitor/*" in found.scope.schemas
    assert found.duration.trialDays == 0
    if offer is not None:
        assert tuple(found.scope.capabilities) == OFFER.capabilities


def test_what_the_operator_says_replaces_what_is_advertised() -> None:
    found = made(
        said={"duration": {"fullTermDays": 30}},
        scope={"schemas": ["hive:monitor/*"]},
        tier="monitor",
        pricing={"model": "per_action", "perActionSats": 7},
    )
    terms = read_terms(found)
    assert (terms.duration.fullTermDays, terms.duration.noticePeriodDays) == (30, 7)
    assert (terms.scope.schemas, terms.scope.permissionTier) == (["hive:monitor/*"], "monitor")
    assert (terms.compensation.model, terms.compensation.perActionSats) == ("per_action", 7)


def test_without_an_advert_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidParams, match="model of compensation is missing"):
        read_terms(made(profile=None))


@pytest.mark.parametrize("said", [{"price": {}}, {"scope": []}])
def test_a_section_that_is_none_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams, match="is none of"):
        made(said=said)
