"""What we offer on the market: the profile and offers (docs/protocol/11-advisor-kit.md §7;
docs/protocol/04-marketplace-and-nostr.md §3, §5). Only what its owner drafted is ever published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from hive_shared import vc
from hive_shared.canonical import encode
from hive_shared.errors import Conflict, InvalidParams, NotFound, RateLimited
from hive_shared.market import offer as offers
from hive_shared.market import profile as profiles
from hive_shared.market import words
from hive_shared.market.market_events import OFFER, PROFILE, Unsigned, offer_event, profile_event
from hive_shared.market.offer import Offer
from hive_shared.market.profile import Profile
from hive_shared.nostr.event import build
from hive_shared.nostr.pow import Progress
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.advert import OfferStatus, OwnEvent, OwnOffer, OwnProfile, ProfileStatus, raised
from hive_advisor.domain.keyring import Keyring
from hive_advisor.services.ports import RecordRows
from hive_advisor.services.publishing import MIN_RELAYS, AdvertRows, PublishingService

RESIGN_S: Final = 7 * 86_400
_DAY: Final = 86_400


class Preview(msgspec.Struct, frozen=True):
    """An advert as it would be published, without the work."""

    document: dict[str, Any]
    size: int
    relays: tuple[str, ...]
    bits: int
    warnings: tuple[str, ...]


class AdvertService:
    """Owns the profile and the offers. `load` is how many contracts run."""

    def __init__(
        self,
        db: Db,
        rows: AdvertRows,
        records: RecordRows,
        keyring: Keyring,
        publishing: PublishingService,
        *,
        load: Callable[[Tx], int],
        now: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._db, self._rows, self._records, self._keyring = db, rows, records, keyring
        self._publishing, self._load, self._now, self._new_id = publishing, load, now, new_id

    # -- the profile -----------------------------------------------------------------------------------

    async def profile(self) -> OwnProfile:
        """The profile with its draft. Raises NotFound."""
        found = await self._db.read(self._rows.profile)
        if found is None:
            raise NotFound(
                "no profile was drafted: 'hive-advisor profile edit FILE' takes one as TOML or JSON"
            )
        return found

    async def published(self) -> OwnEvent | None:
        """The newest event of the profile."""
        return await self._publishing.state(PROFILE, self._id)

    async def edit(self, fields: Mapping[str, Any]) -> OwnProfile:
        """Change the draft: fields of 04 §3's subject, null removes one. Nothing is published.

        Raises InvalidParams for what no profile may say; the draft stays as it was.
        """
        if "id" in fields:
            raise InvalidParams("profile: id is the key in use, and not to be set")

        def body(tx: Tx) -> OwnProfile:
            known = self._rows.profile(tx)
            draft = {**({} if known is None else known.draft), **fields}
            draft = {name: value for name, value in draft.items() if value is not None}
            draft.setdefault("version", "1.0.0")
            made = self._built(tx, draft, str(draft["version"]))
            given, last = words.version_key(made.version), words.version_key(known.version if known else "")
            if "version" in fields and given is not None and last is not None and given <= last:
                assert known is not None
                raise InvalidParams(
                    f"profile: version {made.version} is not after {known.version}, which was published"
                )
            base = known or OwnProfile({}, "draft", 0)
            changed = replace(base, draft=draft, updated=self._now())
            self._rows.put_profile(tx, changed)
            return changed

        return await self._db.write(body)

    async def preview(self) -> Preview:
        """The event that `publish` would make of the draft. Raises NotFound, InvalidParams."""
        held = await self.profile()
        made = await self._db.read(lambda tx: self._built(tx, held.draft, self._version(held)))
        return self._shown(profile_event(made, pubkey=self._keyring.current))

    async def publish(self, progress: Progress | None = None) -> OwnEvent:
        """Sign the draft with the next version and publish it; one that was withdrawn is there again.

        Raises NotFound, InvalidParams, PolicyDenied, RateLimited, Conflict.
        """
        return await self._put(await self.profile(), "active", progress)

    async def refresh(self, progress: Progress | None = None) -> OwnEvent:
        """Sign what is published again, as of today. Raises as `publish`."""
        held = await self._live()
        return await self._put(held, held.status, progress)

    async def pause(self, progress: Progress | None = None) -> OwnEvent:
        """Publish the profile as paused: it stays readable, and is offered to nobody. Raises as `publish`."""
        return await self._put(await self._live(), "paused", progress)

    async def resume(self, progress: Progress | None = None) -> OwnEvent:
        """Publish a paused profile as active. Raises as `publish`."""
        held = await self._live()
        if held.status != "paused":
            raise Conflict(f"the profile is {held.status}, not paused", reason="stale_state")
        return await self._put(held, "active", progress)

    async def withdraw(self) -> OwnEvent:
        """Take the profile back from every relay. Raises NotFound, Conflict."""
        held = await self._live()
        gone = replace(held, status="withdrawn", updated=self._now())
        return await self._publishing.withdraw(
            PROFILE,
            self._id,
            ends_at=held.valid_until,
            noted=lambda tx: self._noted_profile(tx, gone, "profile_withdrawn"),
        )

    async def _live(self) -> OwnProfile:
        held = await self.profile()
        if held.status not in ("active", "paused"):
            raise Conflict(f"the profile is {held.status}: nothing of it is published", reason="stale_state")
        return held

    async def _put(
        self, held: OwnProfile, status: ProfileStatus, progress: Progress | None = None
    ) -> OwnEvent:
        made = await self._db.read(lambda tx: self._built(tx, held.draft, self._version(held)))
        signed = replace(
            held,
            status=status,
            version=made.version,
            load=await self._db.read(self._load),
            signed_at=self._now(),
            valid_until=self._now() + 90 * _DAY,
            updated=self._now(),
        )
        return await self._publishing.publish(
            profile_event(made, pubkey=self._keyring.current, status=status),
            noted=lambda tx: self._noted_profile(tx, signed, "profile_published"),
            progress=progress,
        )

    def _noted_profile(self, tx: Tx, profile: OwnProfile, kind: str) -> None:
        current = self._rows.profile(tx)
        # What was edited while the work went on is the draft still.
        kept = profile if current is None else replace(profile, draft=current.draft)
        self._rows.put_profile(tx, kept)
        self._records.add_event(tx, kind, profile.version, "", self._now())

    def _version(self, held: OwnProfile) -> str:
        """The draft's version where it is new, else the one after the last."""
        given, last = words.version_key(held.draft.get("version")), words.version_key(held.version)
        if last is not None and (given is None or given <= last):
            return raised(held.version)
        return str(held.draft["version"])

    def _built(self, tx: Tx, draft: Mapping[str, Any], version: str) -> Profile:
        now = self._now()
        subject = {**self._loaded(tx, draft), "version": version}
        secret = self._keyring.secret(self._keyring.current)
        return profiles.build(subject, secret, identity=f"urn:uuid:{self._new_id()}", now=now)

    def _loaded(self, tx: Tx, draft: Mapping[str, Any]) -> dict[str, Any]:
        """The draft with the load that our contracts are; who is full takes nobody more."""
        availability = draft.get("availability")
        if not isinstance(availability, dict):
            return dict(draft)
        load, most = self._load(tx), availability.get("maxNodes")
        changed = {**availability, "currentLoad": load}
        if isinstance(most, int) and load >= most:
            changed["acceptingNewClients"] = False
        return {**draft, "availability": changed}

    @property
    def _id(self) -> str:
        return vc.did_of(self._keyring.current)

    # -- offers ----------------------------------------------------------------------------------------

    async def offers(self) -> list[OwnOffer]:
        """Offers, the newest first."""
        return await self._db.read(self._rows.offers)

    async def offer(self, offer_id: str) -> tuple[OwnOffer, OwnEvent | None]:
        """One offer with its newest event. Raises NotFound."""
        return await self._offer(offer_id), await self._publishing.state(OFFER, offer_id)

    async def _offer(self, offer_id: str) -> OwnOffer:
        found = await self._db.read(lambda tx: self._rows.offer(tx, offer_id))
        if found is None:
            raise NotFound(f"no offer {offer_id[:64]!r}; 'hive-advisor offer list' shows them")
        return found

    async def create(self, fields: Mapping[str, Any], progress: Progress | None = None) -> OwnEvent:
        """Publish a new offer of the fields of 04 §12. Raises InvalidParams, Conflict, as `publish`."""
        made = self.read_offer(fields)
        if await self._db.read(lambda tx: self._rows.offer(tx, made.offer_id)) is not None:
            raise Conflict(f"there is an offer {made.offer_id} already: 'offer update' changes it")
        draft = {**fields, "offer_id": made.offer_id}
        return await self._put_offer(made, draft, "active", self._now(), progress)

    async def update(
        self, offer_id: str, fields: Mapping[str, Any], progress: Progress | None = None
    ) -> OwnEvent:
        """Publish an offer with other fields; null removes one. Raises NotFound, InvalidParams, Conflict."""
        held = await self._offer(offer_id)
        if held.status != "active":
            raise Conflict(f"offer {offer_id} is {held.status}", reason="stale_state")
        if fields.get("offer_id", offer_id) != offer_id:
            raise InvalidParams("offer: offer_id cannot be changed; create another offer")
        draft = {name: value for name, value in {**held.draft, **fields}.items() if value is not None}
        made = self.read_offer(draft)
        return await self._put_offer(made, draft, "active", held.created, progress)

    async def fill(self, offer_id: str, progress: Progress | None = None) -> OwnEvent:
        """Publish that an offer was taken. Raises NotFound, Conflict."""
        held = await self._offer(offer_id)
        if held.status != "active":
            raise Conflict(f"offer {offer_id} is {held.status}", reason="stale_state")
        filled = offers.draft(held.draft, offer_id=offer_id, now=self._now())
        filled = msgspec.structs.replace(filled, status="filled", expires_at=held.expires_at)
        return await self._put_offer(filled, held.draft, "filled", held.created, progress)

    async def withdraw_offer(self, offer_id: str) -> OwnEvent:
        """Take an offer back from every relay. Raises NotFound, Conflict."""
        held = await self._offer(offer_id)
        if held.status == "withdrawn":
            raise Conflict(f"offer {offer_id} is withdrawn", reason="stale_state")
        gone = replace(held, status="withdrawn", updated=self._now())

        def noted(tx: Tx) -> None:
            self._rows.put_offer(tx, gone)
            self._records.add_event(tx, "offer_withdrawn", offer_id, "", self._now())

        return await self._publishing.withdraw(OFFER, offer_id, ends_at=held.expires_at, noted=noted)

    def read_offer(self, fields: Mapping[str, Any]) -> Offer:
        """An offer read strictly. Raises InvalidParams."""
        return offers.draft(fields, offer_id=f"offer-{self._new_id()[:8]}", now=self._now())

    def preview_offer(self, fields: Mapping[str, Any]) -> Preview:
        """The event that `create` would publish. Raises InvalidParams."""
        return self._shown(self._event_of(self.read_offer(fields)))

    def _event_of(self, offer: Offer) -> Unsigned:
        return offer_event(offer, pubkey=self._keyring.current, profile_id=self._id)

    async def _put_offer(
        self,
        offer: Offer,
        draft: Mapping[str, Any],
        status: OfferStatus,
        created: int,
        progress: Progress | None,
    ) -> OwnEvent:
        kept = OwnOffer(offer.offer_id, dict(draft), status, offer.expires_at, created, self._now())

        def noted(tx: Tx) -> None:
            self._rows.put_offer(tx, kept)
            self._records.add_event(tx, f"offer_{status}", offer.offer_id, "", self._now())

        return await self._publishing.publish(self._event_of(offer), noted=noted, progress=progress)

    # -- time ------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Sign the profile again weekly, and when our load changed, as often as readers take it."""
        held = await self._db.read(self._rows.profile)
        if held is None or held.status not in ("active", "paused"):
            return
        load = await self._db.read(self._load)
        if self._now() < held.signed_at + RESIGN_S and load == held.load:
            return
        try:
            await self._publishing.check(PROFILE)
        except RateLimited:
            return
        await self._put(held, held.status)

    # -- inside ----------------------------------------------------------------------------------------

    def _shown(self, unsigned: Unsigned) -> Preview:
        key, now = self._keyring.secret(self._keyring.current), self._now()
        document = build(key, *unsigned, now).to_json()
        document.pop("id"), document.pop("sig")
        relays = self._publishing.relays
        few = len(relays) < MIN_RELAYS
        return Preview(
            document,
            len(encode(document)),
            relays,
            self._publishing.bits,
            (f"low_redundancy: {len(relays)} relays, {MIN_RELAYS} are usual",) if few else (),
        )
