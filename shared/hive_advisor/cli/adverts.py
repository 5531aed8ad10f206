"""``hive-advisor profile`` and ``hive-advisor offer``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click
from hive_shared.errors import InvalidParams

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.cleaning import Own

if TYPE_CHECKING:
    from hive_advisor.domain.advert import OwnEvent, OwnOffer
    from hive_advisor.services.adverts import Preview

_MAX_BYTES: Final = 65_536
_TELL_EACH_S: Final = 10.0


@click.group()
def profile() -> None:
    """What you say of yourself on the market: drafted here, published when you say so."""


@click.group()
def offer() -> None:
    """What you offer on the market: one advert each, 7 to 30 days."""


async def document(settings: Settings, source: str) -> dict[str, Any]:
    """An object from a file or standard input, JSON or TOML. Raises InvalidParams."""
    text = await settings.terminal.console.text_of(source)
    if len(text.encode()) > _MAX_BYTES:
        raise InvalidParams(f"{source}: more than {_MAX_BYTES} bytes")
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParams(f"{source} is neither JSON nor TOML: {error}") from error
    assert isinstance(found, dict)
    return found


def _working(settings: Settings) -> Callable[[int], None]:
    """Tells how the work goes on, every ten seconds."""
    import time

    started = told = time.monotonic()

    def progress(hashes: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _TELL_EACH_S:
            told = now
            settings.terminal.progress(f"working for the event: {hashes:,} hashes in {now - started:.0f} s")

    return progress


def event_row(event: OwnEvent) -> dict[str, Any]:
    """An event and where it is."""
    return {
        "event_id": event.event_id,
        "d": event.d,
        "state": event.state,
        "created_at": output.moment(event.created_at),
        "relays": [{"relay": Own(url), "said": word} for url, word in event.relays.items()],
        "taken": event.taken,
        "needed": event.minimum,
    }


def _ended(settings: Settings, event: OwnEvent, **more: Any) -> None:
    """Exit 5 while relays are still to take it: the agent goes on, so does the next call that is online."""
    code = output.OK if event.state == "sent" else output.PENDING
    settings.terminal.show({**more, **event_row(event)}, code)


def _preview(made: Preview) -> dict[str, Any]:
    return {
        "event": made.document,
        "bytes": made.size,
        "relays": [Own(url) for url in made.relays],
        "pow_bits": made.bits,
        **({"warnings": list(made.warnings)} if made.warnings else {}),
    }


@profile.command()
@click.argument("file")
@pass_settings
@answered
async def edit(settings: Settings, file: str) -> None:
    """Change the draft by FILE (TOML or JSON, ``-`` for standard input); nothing is published.

    FILE has the fields of docs/protocol/04 §3's credentialSubject; in JSON, null removes one.
    """
    fields = await document(settings, file)
    async with settings.kit(online=False) as kit:
        made = await kit.market.adverts.edit(fields)
        settings.terminal.show({"status": made.status, "draft": made.draft})


@profile.command()
@pass_settings
@answered
async def preview(settings: Settings) -> None:
    """The event that publishing would make, its size and relays; nothing is published."""
    async with settings.kit(online=False) as kit:
        settings.terminal.show(_preview(await kit.market.adverts.preview()))


@profile.command()
@pass_settings
@answered
async def show(settings: Settings) -> None:
    """The draft, what was published of it and which relays have it."""
    async with settings.kit(online=False) as kit:
        held, event = await kit.market.adverts.profile(), await kit.market.adverts.published()
        settings.terminal.show(
            {
                "status": held.status,
                "version": held.version or None,
                "valid_until": output.moment(held.valid_until),
                "draft": held.draft,
                "published": None if event is None else event_row(event),
            }
        )


async def _put(settings: Settings, act: str) -> None:
    async with settings.kit(online=True) as kit:
        settings.terminal.progress(f"{kit.market.publishing.bits} bits of work, then the relays")
        doing: Any = getattr(kit.market.adverts, act)
        event = await doing(_working(settings))
        held = await kit.market.adverts.profile()
        _ended(settings, event, status=held.status, version=held.version)


@profile.command()
@pass_settings
@answered
async def publish(settings: Settings) -> None:
    """Sign the draft with the next version and put it to the relays; once an hour."""
    await _put(settings, "publish")


@profile.command()
@pass_settings
@answered
async def refresh(settings: Settings) -> None:
    """The same without a new draft: signed again as of today. `run` does it weekly by itself."""
    await _put(settings, "refresh")


@profile.command()
@pass_settings
@answered
async def pause(settings: Settings) -> None:
    """Publish the profile as paused: nobody new is to come."""
    await _put(settings, "pause")


@profile.command()
@pass_settings
@answered
async def resume(settings: Settings) -> None:
    """Publish a paused profile as active."""
    await _put(settings, "resume")


@profile.command()
@pass_settings
@answered
async def withdraw(settings: Settings) -> None:
    """Delete every version at the relays and leave a tombstone. Contracts go on."""
    await settings.ask_yes("Take the profile off the market?")
    async with settings.kit(online=True) as kit:
        _ended(settings, await kit.market.adverts.withdraw(), status="withdrawn")


# -- offers ----------------------------------------------------------------------------------------------


def _offer_row(item: OwnOffer) -> dict[str, Any]:
    return {
        "offer_id": item.offer_id,
        "status": item.status,
        "price_sats": item.draft.get("price_sats"),
        "capabilities": item.draft.get("capabilities"),
        "expires_at": output.moment(item.expires_at),
    }


@offer.command()
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="show the event; publish nothing")
@pass_settings
@answered
async def create(settings: Settings, file: str, dry_run: bool) -> None:
    """Publish the offer that FILE describes (TOML or JSON, ``-`` for standard input).

    Fields: capabilities, pricing_model, price_sats, period, performance_pct, trial_days, max_channels,
    min_node_capacity, sla_response_s, sla_uptime, methods, expires_in_days, description, offer_id.
    """
    fields = await document(settings, file)
    if dry_run:
        async with settings.kit(online=False) as kit:
            settings.terminal.show(_preview(kit.market.adverts.preview_offer(fields)))
    async with settings.kit(online=True) as kit:
        settings.terminal.progress(f"{kit.market.publishing.bits} bits of work, then the relays")
        _ended(settings, await kit.market.adverts.create(fields, _working(settings)))


@offer.command("list")
@pass_settings
@answered
async def list_(settings: Settings) -> None:
    """Your offers, the newest first."""
    async with settings.kit(online=False) as kit:
        items = [_offer_row(each) for each in await kit.market.adverts.offers()]
        settings.terminal.show({"items": items, "count": len(items)})


@offer.command("show")
@click.argument("offer_id", shell_complete=completing.offers)
@pass_settings
@answered
async def show_offer(settings: Settings, offer_id: str) -> None:
    """One offer as it was drafted, and which relays have it."""
    async with settings.kit(online=False) as kit:
        held, event = await kit.market.adverts.offer(offer_id)
        settings.terminal.show(
            {
                **_offer_row(held),
                "draft": held.draft,
                "published": None if event is None else event_row(event),
            }
        )


@offer.command()
@click.argument("offer_id", shell_complete=completing.offers)
@click.argument("file")
@pass_settings
@answered
async def update(settings: Settings, offer_id: str, file: str) -> None:
    """Publish an offer with the fields of FILE changed; in JSON, null removes one."""
    fields = await document(settings, file)
    async with settings.kit(online=True) as kit:
        _ended(settings, await kit.market.adverts.update(offer_id, fields, _working(settings)))


@offer.command()
@click.argument("offer_id", shell_complete=completing.offers)
@pass_settings
@answered
async def fill(settings: Settings, offer_id: str) -> None:
    """Publish that an offer was taken."""
    async with settings.kit(online=True) as kit:
        _ended(settings, await kit.market.adverts.fill(offer_id, _working(settings)))


@offer.command("withdraw")
@click.argument("offer_id", shell_complete=completing.offers)
@pass_settings
@answered
async def withdraw_offer(settings: Settings, offer_id: str) -> None:
    """Delete every version of an offer at the relays and leave a tombstone."""
    async with settings.kit(online=True) as kit:
        _ended(settings, await kit.market.adverts.withdraw_offer(offer_id))
