"""``hive-advisor wallet``: ecash at mints you trust (docs/protocol/11-advisor-kit.md §8, §10).

Mint addresses and tokens of our own making are shown whole; every other text of a mint is cleaned.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click
from hive_shared.errors import Conflict, InvalidParams

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.cleaning import Own

if TYPE_CHECKING:
    from hive_shared.cashu.journal import Op
    from hive_shared.cashu.mints import MintRow

    from hive_advisor.ecash import Ecash

T = TypeVar("T")
_LINE_S: Final = 10
_MOST_SAT: Final = 10_000_000
_AMOUNT = click.argument("amount_sats", type=click.IntRange(1, _MOST_SAT))
_MINT = click.option(
    "--mint",
    shell_complete=completing.mints,
    metavar="URL",
    help="address of the mint; the first of your list without",
)
_STATES: Final = ("prepared", "sent", "recovering", "done", "failed")


@click.group()
def wallet() -> None:
    """Ecash at the mints you named: what you are paid in, and what you can pay with."""


@wallet.command()
@pass_settings
@answered
async def balance(settings: Settings) -> None:
    """What is there, mint by mint, from the local database.

    "held" is in an operation under way; "quarantined" counts once its mint said that it is unspent.
    """
    async with settings.kit(online=False) as kit:
        rows = await kit.ecash.balances()
        settings.terminal.show(
            {
                "total_sats": sum(row["free_sats"] for row in rows),
                "mints": [{**row, "mint": Own(row["mint"])} for row in rows],
                "receive_pubkey": kit.ecash.service.receive_pubkey,
            }
        )


@wallet.command()
@click.argument("token", default="-")
@pass_settings
@answered
async def receive(settings: Settings, token: str) -> None:
    """Take a token in: exchanged at its mint at once, so that whoever gave it cannot spend it any more.

    TOKEN, or - to read it from standard input, where no other user of this machine sees it.
    """
    text = (await settings.document("-") if token == "-" else token) or ""
    async with settings.kit(online=False) as kit:
        await kit.ecash.ready()
        op = await _patiently(
            settings, "the mint exchanges the token", kit.ecash.service.receive(text.strip(), settings.wait)
        )
        _ended(settings, op)


@wallet.command()
@_AMOUNT
@_MINT
@click.option("--to", "pubkey", help="only the owner of this key can spend it", metavar="PUBKEY")
@click.option("--key", help="name of this call: the same one again shows the same token", metavar="TEXT")
@pass_settings
@answered
async def send(
    settings: Settings, amount_sats: int, mint: str | None, pubkey: str | None, key: str | None
) -> None:
    """Make a token for somebody else. Whoever has it can spend it, unless --to says who."""
    from hive_shared.cashu.curve import is_point

    if pubkey is not None and not is_point(pubkey):
        raise InvalidParams("--to takes a compressed public key: 66 lower-case hex, 02 or 03 first")
    if key is not None and not 1 <= len(key) <= 128:
        raise InvalidParams("--key takes 1 to 128 characters")
    async with settings.kit(online=False) as kit:
        await kit.ecash.ready()
        await settings.ask_yes(f"Take {amount_sats} sat out of the wallet as a token?")
        op = await _patiently(
            settings,
            "the mint makes the token",
            kit.ecash.service.send(amount_sats, mint, pubkey, key, settings.wait),
        )
        _ended(settings, op, token=Own(op.body.token))


@wallet.command()
@click.argument("invoice")
@_MINT
@pass_settings
@answered
async def melt(settings: Settings, invoice: str, mint: str | None) -> None:
    """Have a mint pay a Lightning invoice out of your ecash. The same invoice is paid once, however often
    this is run; what the mint does not need for the way comes back."""
    from hive_shared.cashu.wallet_service import payable

    text = invoice.strip().lower().removeprefix("lightning:")
    asked = payable(text)
    async with settings.kit(online=False) as kit:
        await kit.ecash.ready()
        amount_sats = (asked.amount_msat or 0) // 1_000
        await settings.ask_yes(
            f"Pay this invoice over {amount_sats} sat out of the wallet (payment hash {asked.payment_hash})?"
        )
        op = await _patiently(
            settings, "the mint pays the invoice", kit.ecash.service.pay(text, mint, settings.wait)
        )
        shown = op.body.preimage
        proved = bool(shown) and hashlib.sha256(bytes.fromhex(shown)).hexdigest() == asked.payment_hash
        _ended(settings, op, payment_hash=asked.payment_hash, preimage=shown or None, proved=proved)


@wallet.command()
@_MINT
@click.option("--apply", is_flag=True, help="do it; without, say what would be found")
@pass_settings
@answered
async def restore(settings: Settings, mint: str | None, apply: bool) -> None:
    """Find ecash again from the identity's root alone: what the mint signed for it and is not spent.

    A token that you made and nobody took in yet is found too, and counts as yours again.
    """
    async with settings.kit(online=False) as kit:
        await kit.ecash.ready()
        found = await _patiently(
            settings, "the mint is asked, counter by counter", kit.ecash.restore.run(mint, dry_run=not apply)
        )
        mints = {"mint": Own(found["mint"]), "not_asked": [Own(url) for url in found["not_asked"]]}
        settings.terminal.show({**found, **mints, "applied": apply})


@wallet.command()
@click.option("--state", type=click.Choice(_STATES), help="only those")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def ops(settings: Settings, state: str | None, limit: int) -> None:
    """What the wallet did and what is under way, the newest first."""
    async with settings.kit(online=False) as kit:
        items = [_op_row(op) for op in await kit.ecash.service.ops(state, None, limit)]
        settings.terminal.show({"items": items, "count": len(items)})


@wallet.group()
def mint() -> None:
    """The mints you trust with your money; no other is ever contacted."""


@mint.command("list")
@pass_settings
@answered
async def list_(settings: Settings) -> None:
    """Your mints, the primary first, and how they were when they were asked last."""
    async with settings.kit(online=False) as kit:
        await kit.ecash.ready()
        items = [_mint_row(kit.ecash, row) for row in kit.ecash.book.every()]
        settings.terminal.show({"items": items, "count": len(items)})


@mint.command()
@click.argument("url")
@click.option("--primary", is_flag=True, help="put it first")
@pass_settings
@answered
async def add(settings: Settings, url: str, primary: bool) -> None:
    """Trust one more mint (a line of config.toml) and ask it at once how it is."""
    address = _address(url)
    async with settings.kit(online=False) as kit:
        others = [each for each in kit.ecash.named if each != address]
        await _name(settings, kit.ecash, [address, *others] if primary else [*others, address])
        row = await _patiently(settings, "the mint is asked how it is", kit.ecash.book.check(address))
        settings.terminal.show(_mint_row(kit.ecash, row))


@mint.command()
@click.argument("url", shell_complete=completing.mints)
@click.option("--force", is_flag=True, help="even with ecash or tickets there; they stay recorded")
@pass_settings
@answered
async def remove(settings: Settings, url: str, force: bool) -> None:
    """Trust a mint no more: it is not contacted again."""
    address = _address(url)
    async with settings.kit(online=False) as kit:
        await kit.ecash.ready()
        if address not in kit.ecash.named:
            raise InvalidParams("that is none of your mints; 'hive-advisor wallet mint list' shows them")
        row = (await kit.ecash.service.balance())[address]
        left = row["unspent"] + row["pending"] + row["quarantined"]
        if left and not force:
            raise Conflict(
                f"{left} sat are at that mint: melt or send them first, or add --force and leave them there",
                data={"left_sats": left},
            )
        held = await kit.tickets.live_at(address)
        tickets, held_sats = sorted({share.ticket_id for share in held}), sum(s.net_sats for s in held)
        if held and not force:
            raise Conflict(
                f"{held_sats} sat of tickets are locked to you at that mint and cannot be redeemed without it"
                f" ({', '.join(tickets[:5])}): redeem them first, or add --force and give them up",
                data={"held_sats": held_sats, "tickets": [*tickets[:100]]},
            )
        await _name(settings, kit.ecash, [each for each in kit.ecash.named if each != address])
        settings.terminal.show({"mint": Own(address), "named": False, "left_sats": left})


def _address(url: str) -> str:
    from hive_shared.cashu.mint_url import normal_mint_url

    try:
        return normal_mint_url(url)
    except ValueError as error:
        raise InvalidParams(str(error)) from None


async def _name(settings: Settings, ecash: Ecash, mints: list[str]) -> None:
    from hive_advisor.config import MAX_MINTS, with_mints
    from hive_advisor.guard_files import replace_text, text_of

    if len(mints) > MAX_MINTS:
        raise InvalidParams(f"at most {MAX_MINTS} mints; remove one first")
    path = settings.paths.config
    old = text_of(path)
    settings.paths.make()
    replace_text(path, old, with_mints(old, mints))
    await ecash.name(mints)


async def _patiently(settings: Settings, doing: str, steps: Awaitable[T]) -> T:
    """The result; a line each ten seconds says what is waited for."""
    task = asyncio.ensure_future(steps)
    try:
        while not (await asyncio.wait({task}, timeout=_LINE_S))[0]:
            settings.terminal.progress(f"{doing} …")
    finally:
        task.cancel()
    return await task


def _ended(settings: Settings, op: Op, **more: Any) -> NoReturn:
    """Exit 0 when it is done, 5 when it goes on by itself."""
    row: dict[str, Any] = {
        "op_id": op.op_id,
        "state": "done" if not op.open else "pending",
        "mint": Own(op.mint_url),
        "amount_sats": op.amount_sats,
        "fee_sats": op.fee_sats,
    }
    if not op.open:
        settings.terminal.show({**row, **more})
    settings.terminal.progress("not settled yet: 'hive-advisor run' carries it on, or the same command again")
    settings.terminal.show({**row, **_key(op), "note": op.error or None}, output.PENDING)


def _key(op: Op) -> dict[str, str]:
    from hive_shared.cashu.wallet_service import CALL

    key = op.idempotency_key
    return {"key": key.removeprefix(CALL)} if key.startswith(CALL) else {}


def _op_row(op: Op) -> dict[str, Any]:
    return {
        "op_id": op.op_id,
        "kind": op.kind.value,
        "state": op.state.value,
        "amount_sats": op.amount_sats,
        "fee_sats": op.fee_sats,
        "mint": Own(op.mint_url),
        "key": _key(op).get("key"),
        "next_at": output.moment(op.next_retry_at) if op.next_retry_at else None,
        "at": output.moment(op.created_at),
        "error": op.error or None,
    }


def _mint_row(ecash: Ecash, row: MintRow) -> dict[str, Any]:
    # Of the process that answers: the one that holds the profile, where there is one.
    traffic = ecash.book.at(row.url).traffic if row.url in ecash.named else None
    return {
        "mint": Own(row.url),
        "role": row.role.value,
        "status": row.status.value,
        "version": row.version or None,
        "failed_checks": row.failures,
        "checked_at": output.moment(row.checked_at) if row.checked_at else None,
        "last_ok_at": output.moment(row.last_ok_at) if row.last_ok_at else None,
        "breaker": traffic and traffic.breaker,
        "held_for_s": traffic and round(traffic.held_for_s),
        "detail": row.last_error or None,
    }
