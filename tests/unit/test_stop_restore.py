"""A restore takes nothing of an emergency stop away (docs/decisions/0312-a-restore-never-lifts-a-stop.md)."""

from itertools import product

import pytest
from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.domain.stop_restore import stop_after

NOW = 1_770_000_000
STOPS = {
    "none": None,
    "on": Stop(since=5, by="operator", reason="theft", cancel_due=False),
    "freezing": Stop(since=5, by="file", freeze=True, cancel_due=False, revoked=3),
    "revoking": Stop(since=5, by="operator", revoke_due=True),
}


@pytest.mark.parametrize(("here", "said", "frozen"), list(product(STOPS, STOPS, (False, True))))
def test_every_combination(here: str, said: str, frozen: bool) -> None:
    own, backup = STOPS[here], STOPS[said]
    after = stop_after(own, backup, frozen=frozen, now=NOW)
    assert (after is None) == (own is None and backup is None and not frozen)
    if after is None:
        return
    if own is not None:
        assert (after.since, after.by, after.reason, after.revoked) == (
            own.since,
            own.by,
            own.reason,
            own.revoked,
        )
    else:
        assert (after.since, after.by, after.cancel_due) == (NOW, "operator", True)
        assert "when the backup was made" in after.reason
    each = [stop for stop in (own, backup) if stop is not None]
    assert after.freeze == (frozen or any(stop.freeze for stop in each))
    assert after.revoke_due == any(stop.revoke_due for stop in each)


def test_the_reason_of_then_is_kept_and_fits() -> None:
    after = stop_after(None, Stop(since=1, by="operator", reason="y" * 280), frozen=False, now=NOW)
    assert after is not None and "y" * 200 in after.reason and len(after.reason) <= 280
