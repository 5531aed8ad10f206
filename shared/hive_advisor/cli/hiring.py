"""``hive-advisor inbox``, ``thread`` and ``contract``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from hive_shared.errors import Conflict, HiveError, InvalidParams

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.domain.engagement import Engagement, Thread

_HOUR: Final = 3_600
_MAX_EXPORT: Final = 65_536


@click.group()
def inbox() -> None:
    """Operators who want to hire you, and how far each negotiation is."""


@click.group()
def thread() -> None:
    """A negotiation, named by its contract's id or the beginning of it."""


@click.group()
def contract() -> None:
    """What both sides sign, named by its id or the beginning of it."""


async def _operator(kit: Advisor, found: Thread) -> str:
    from hive_advisor.domain.names import offered_alias

    client = await kit.clients.with_node_key(found.peer_key)
    return offered_alias(found.peer_key) if client is None else client.alias


async def _thread_row(kit: Advisor, found: Thread, engagement: Engagement | None) -> dict[str, Any]:
    from hive_advisor.domain.thread_rows import thread_row, with_moments

    row = thread_row(found, engagement, await _operator(kit, found), kit.market.now())
    return with_moments(row, output.moment)


@inbox.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def list_(settings: Settings, limit: int) -> None:
    """Negotiations, the one changed last first."""
    async with settings.kit(online=False) as kit:
        items = [await _thread_row(kit, *each) for each in await kit.market.negotiations.listed(limit)]
        settings.terminal.show({"items": items, "count": len(items)})


@thread.command()
@click.argument("contract_id", shell_complete=completing.threads)
@pass_settings
@answered
async def show(settings: Settings, contract_id: str) -> None:
    """The terms that stand, what each round changed and where it widened your scope, every message."""
    from hive_advisor.domain.thread_rows import thread_view, with_moments

    async with settings.kit(online=False) as kit:
        view = await kit.market.negotiations.view(contract_id)
        name = await _operator(kit, view.thread)
        whole = thread_view(view.thread, view.messages, view.engagement, name, kit.market.now())
        settings.terminal.show(with_moments(whole, output.moment))


def changes_of(pairs: Sequence[str]) -> dict[str, Any]:
    """``path=value`` pairs; a value is JSON, or text where it is none. Raises InvalidParams."""
    found: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path:
            raise InvalidParams(f"{pair[:80]!r}: give changes as path=value, such as sla.uptimePct=99")
        if path in found:
            raise InvalidParams(f"{path[:80]} is given twice")
        try:
            found[path] = json.loads(text)
        except ValueError:
            found[path] = text
    return found


async def _said(settings: Settings, kit: Advisor, found: Thread) -> None:
    await kit.signed_mail.flush()
    view = await kit.market.negotiations.view(found.contract_id)
    settings.terminal.show(await _thread_row(kit, view.thread, view.engagement))


@thread.command()
@click.argument("contract_id", shell_complete=completing.threads)
@click.argument("changes", nargs=-1, required=True)
@click.option("--why", default="", help="your reasons, for the operator to read")
@click.option("--hours", type=click.IntRange(1, 72), default=72, show_default=True, help="how long it stands")
@click.option("--sign", is_flag=True, help="sign the contract too when it comes and says just this")
@pass_settings
@answered
async def counter(
    settings: Settings, contract_id: str, changes: tuple[str, ...], why: str, hours: int, sign: bool
) -> None:
    """Offer other terms: CHANGES are path=value, such as compensation.baseMonthlySats=6000.

    A value is JSON; null removes an optional part. At most five rounds are made, both sides together.
    """
    async with settings.kit(online=True) as kit:
        found = await kit.market.negotiations.counter(
            contract_id, changes_of(changes), why, expires_at=kit.market.now() + hours * _HOUR, sign=sign
        )
        await _said(settings, kit, found)


@thread.command()
@click.argument("contract_id", shell_complete=completing.threads)
@click.option("--terms-hash", default="", help="only if these terms stand, as 'thread show' named them")
@click.option("--sign", is_flag=True, help="sign the contract too when it comes and says just this")
@pass_settings
@answered
async def accept(settings: Settings, contract_id: str, terms_hash: str, sign: bool) -> None:
    """Agree to the terms that stand. The operator signs next, then you: 'contract sign'."""
    await settings.ask_yes("Agree to the terms that stand?")
    async with settings.kit(online=True) as kit:
        found = await kit.market.negotiations.accept(contract_id, sign=sign, terms_hash=terms_hash)
        await _said(settings, kit, found)


@thread.command()
@click.argument("contract_id", shell_complete=completing.threads)
@click.option("--reason", default="", help="for the operator to read")
@pass_settings
@answered
async def reject(settings: Settings, contract_id: str, reason: str) -> None:
    """End a negotiation with a no."""
    async with settings.kit(online=True) as kit:
        await _said(settings, kit, await kit.market.negotiations.reject(contract_id, reason))


@thread.command()
@click.argument("contract_id", shell_complete=completing.threads)
@click.option("--reason", default="", help="for the operator to read")
@pass_settings
@answered
async def abort(settings: Settings, contract_id: str, reason: str) -> None:
    """Withdraw, at any time before both have signed."""
    async with settings.kit(online=True) as kit:
        await _said(settings, kit, await kit.market.negotiations.abort(contract_id, reason))


# -- contracts -------------------------------------------------------------------------------------------


async def _row(kit: Advisor, found: Thread, engagement: Engagement) -> dict[str, Any]:
    from hive_advisor.domain.thread_rows import contract_row, with_moments

    return with_moments(contract_row(found, engagement, await _operator(kit, found)), output.moment)


@contract.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def list_contracts(settings: Settings, limit: int) -> None:
    """Contracts that their operators signed, the newest first."""
    async with settings.kit(online=False) as kit:
        items = [await _row(kit, *each) for each in await kit.market.contracts.listed(limit)]
        settings.terminal.show({"items": items, "count": len(items)})


@contract.command("show")
@click.argument("contract_id", shell_complete=completing.contracts)
@pass_settings
@answered
async def show_contract(settings: Settings, contract_id: str) -> None:
    """One contract: its state and the document."""
    async with settings.kit(online=False) as kit:
        found, engagement = await kit.market.contracts.view(contract_id)
        row = await _row(kit, found, engagement)
        settings.terminal.show(
            {**row, "contract_hash": engagement.contract_hash, "contract": engagement.document}
        )


async def _changed(settings: Settings, kit: Advisor, contract_id: str) -> None:
    await kit.signed_mail.flush()
    settings.terminal.show(await _row(kit, *await kit.market.contracts.view(contract_id)))


@contract.command()
@click.argument("contract_id", shell_complete=completing.contracts)
@pass_settings
@answered
async def sign(settings: Settings, contract_id: str) -> None:
    """Sign what its operator signed: it says exactly what was agreed, or it would not be here."""
    await settings.ask_yes("Sign this contract?")
    async with settings.kit(online=True) as kit:
        await kit.market.contracts.sign(contract_id)
        await _changed(settings, kit, contract_id)


@contract.command()
@click.argument("contract_id", shell_complete=completing.contracts)
@click.option("--reason", default="", help="for the operator to read")
@pass_settings
@answered
async def terminate(settings: Settings, contract_id: str, reason: str) -> None:
    """Give notice: work goes on until the notice period is over."""
    await settings.ask_yes("Give notice of this contract?")
    async with settings.kit(online=True) as kit:
        await kit.market.contracts.terminate(contract_id, reason)
        await _changed(settings, kit, contract_id)


@contract.command()
@click.argument("contract_id", shell_complete=completing.contracts)
@click.option("--reason", default="", help="for the operator to read")
@pass_settings
@answered
async def emergency(settings: Settings, contract_id: str, reason: str) -> None:
    """End a contract at once: nothing more is sent to its node."""
    await settings.ask_yes("End this contract now, without notice?")
    async with settings.kit(online=True) as kit:
        await kit.market.contracts.stop(contract_id, reason)
        await _changed(settings, kit, contract_id)


@contract.command()
@click.argument("contract_id", shell_complete=completing.contracts)
@click.argument("file", type=click.Path(path_type=Path))
@pass_settings
@answered
async def export(settings: Settings, contract_id: str, file: Path) -> None:
    """Write a contract to FILE, which 'contract verify' and anybody else checks offline."""
    async with settings.kit(online=False) as kit:
        _, engagement = await kit.market.contracts.view(contract_id)
        if file.exists():
            raise Conflict(f"{file} exists; name a new file")
        file.write_text(json.dumps(engagement.document, ensure_ascii=False, indent=2, sort_keys=True))
        settings.terminal.show({"contract_id": engagement.contract_id, "written": str(file)})


@contract.command()
@click.argument("file")
@pass_settings
@answered
async def verify(settings: Settings, file: str) -> None:
    """Check an exported contract by itself, offline: who signed it, and that nothing was changed since."""
    from hive_shared.canonical import decode_object
    from hive_shared.market.contract import contract_hash, verify_contract

    from hive_advisor.services.receipts import VerificationFailed

    text = await settings.terminal.console.text_of(file)
    try:
        document = decode_object(text, max_bytes=_MAX_EXPORT, floats=True)
        found = verify_contract(document)
    except HiveError as error:
        raise VerificationFailed(f"{file}: {error.detail}") from error
    settings.terminal.show(
        {
            "contract_id": found.contract_id,
            "contract_hash": contract_hash(document),
            "operator": found.operator_key,
            "advisor": found.advisor_key,
            "signed_by_both": True,
        }
    )
