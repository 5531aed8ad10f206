"""The kit's wallet as typed: mints of a profile, tokens in and out, an invoice paid, exit codes, the halt
(docs/protocol/11-advisor-kit.md §8, §10, §13)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from ecash_world import EcashWorld, at_once, invoice_of
from hive_advisor.advisor import Advisor
from hive_advisor.cli.main import cli
from hive_advisor.cli.wallet import wallet
from hive_advisor.config import AdvisorConfig, load_config, with_mints
from hive_advisor.guard_files import HaltFile
from hive_advisor.identity import create_identity, write_identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.profile_backup import create, restore
from hive_devnet.world import AdvisorFailed, AdvisorShell
from hive_shared.errors import HiveError, InvalidParams
from kit_tickets import PaidKit
from kit_world import FEE, PARAMS
from typed_kit import Refused, typed

USAGE, NOT_FOUND, REFUSED, PENDING, PAYMENT = 2, 3, 4, 5, 8
PASSPHRASE = "correct horse battery staple"
NOWHERE = "http://127.0.0.1:1"


class Typed:
    """A profile that is open in this process, and `wallet ...` as typed on it with --json."""

    def __init__(self, directory: Path) -> None:
        self.paths = ProfilePaths("test", directory / "config", directory / "data")
        self.identity = create_identity()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        config = AdvisorConfig(relays=("ws://127.0.0.1:1",), mints=load_config(self.paths.config).mints)
        async with Advisor.open(self.paths, self.identity, config, online=False) as self.kit:
            # The pause between requests to a mint is none of what is tested here.
            ticks = count(step=30)
            reached = self.kit.ecash._connections
            reached._monotonic, reached._sleep = lambda: float(next(ticks)), at_once
            yield

    async def __call__(self, *words: str, yes: bool = True, stdin: str = "") -> Any:
        return await typed(wallet, words, self.kit, self.paths, yes=yes, stdin=stdin)


async def fails(run: Typed, *words: str, yes: bool = True) -> Refused:
    with pytest.raises(Refused) as refused:
        await run(*words, yes=yes)
    return refused.value


async def test_ecash_comes_in_goes_out_and_is_found_again(mint_url: str, tmp_path: Path) -> None:
    run = Typed(tmp_path / "advisor")
    payer = EcashWorld(tmp_path / "payer", mint_url)
    await payer.service.fund(1_000, None, None, 30)
    token = (await payer.service.send(300, None, None, None, 30)).body.token
    async with run.open():
        # Without a mint no mint is asked.
        refused = await fails(run, "receive", token)
        assert (refused.code, refused.error["data"]["reason"]) == (PAYMENT, "mint_not_allowed")
        assert "hive-advisor wallet mint add" in refused.error["message"]
        refused = await fails(run, "send", "10")
        assert (refused.code, refused.error["slug"]) == (REFUSED, "feature_disabled")
        added = await run("mint", "add", mint_url + "/")
        assert (added["mint"], added["role"], added["status"]) == (mint_url, "primary", "probation")
        silent = await run("mint", "add", NOWHERE)
        assert (silent["role"], silent["failed_checks"]) == ("backup", 1) and silent["detail"]
    async with run.open():
        mints = (await run("mint", "list"))["items"]
        assert [(row["mint"], row["breaker"], row["held_for_s"]) for row in mints] == [
            (mint_url, "closed", 0),
            (NOWHERE, "closed", 0),
        ]
        assert mints[0]["last_ok_at"] and mints[1]["last_ok_at"] is None
        assert [check["status"] for check in await run.kit.ecash.checks(20)] == ["ok", "warn"]
        got = await run("receive", stdin=token + "\n")
        assert (got["state"], got["amount_sats"]) == ("done", 300 - got["fee_sats"])
        # Handed in again it is the same one.
        assert (await run("receive", token))["op_id"] == got["op_id"]
        order = ("send", "120", "--to", payer.service.receive_pubkey, "--key", "a")
        made = await run(*order)
        assert made["token"] == (await run(*order))["token"]
        other = await fails(run, "send", "121", "--key", "a")
        assert "this --key stands for another wallet operation: send of 120 sat" in other.error["message"]
        assert (await payer.service.receive(made["token"], 30)).amount_sats > 110
        invoice = invoice_of(50)
        paid = await run("melt", f"lightning:{invoice.upper()}")
        assert (paid["state"], paid["amount_sats"]) == ("done", 50)
        digest = hashlib.sha256(bytes.fromhex(paid["preimage"])).hexdigest() if paid["preimage"] else ""
        assert paid["proved"] is (digest == paid["payment_hash"])
        assert (await run("melt", invoice))["op_id"] == paid["op_id"]
        left = got["amount_sats"] - 120 - made["fee_sats"] - 50 - paid["fee_sats"]
        assert (await run("balance"))["total_sats"] == left
        assert sorted(row["kind"] for row in (await run("ops"))["items"]) == ["melt", "receive", "send"]
        await refusals(run, mint_url)
        await halted(run, payer)
        total = (await run("balance"))["total_sats"]
    # The root alone finds what is there: the database is gone.
    for file in run.paths.data_dir.glob("advisor.db*"):
        file.unlink()
    async with run.open():
        shown = await run("restore")
        assert (shown["new_sats"], shown["applied"], shown["not_asked"]) == (total, False, [])
        assert (await run("balance"))["total_sats"] == 0
        assert (await run("restore", "--apply"))["new_sats"] == total
        assert (await run("balance"))["total_sats"] == total
    await payer.close()


async def refusals(run: Typed, mint_url: str) -> None:
    """What is asked wrongly changes nothing and says why."""
    for words, code in (
        (("send", "0"), USAGE),
        (("send", "10", "--to", "02ab"), USAGE),
        (("send", "10", "--mint", "https://other.example"), PAYMENT),
        (("send", "9000"), PAYMENT),
        (("receive", "cashuBnonsense"), PAYMENT),
        (("melt", "lnbc1nonsense"), USAGE),
        (("mint", "add", "http://mint.example"), USAGE),
        (("mint", "remove", "https://other.example"), USAGE),
        (("mint", "remove", mint_url), REFUSED),
        (("ops", "--state", "lost"), USAGE),
    ):
        before = (await run("balance"), await run("ops"), await run("mint", "list"))
        assert (await fails(run, *words)).code == code, words
        assert (await run("balance"), await run("ops"), await run("mint", "list")) == before
    # Money goes out only when a human says so.
    for out, question in ((("send", "10"), "Take 10 sat"), (("melt", invoice_of(10)), "invoice over 10 sat")):
        asked = await fails(run, *out, yes=False)
        assert (asked.code, asked.error["slug"]) == (PENDING, "confirmation_required")
        assert question in asked.error["message"]
    gone = await run("mint", "remove", NOWHERE)
    assert (gone["named"], gone["left_sats"]) == (False, 0)
    (row,) = [row for row in (await run("mint", "list"))["items"] if row["mint"] == NOWHERE]
    assert row["role"] == "former"


async def test_a_mint_with_tickets_for_us_is_removed_only_by_force_and_no_work_is_done_for_them_then(
    mint_url: str, tmp_path: Path
) -> None:
    world, run = PaidKit(tmp_path / "world", mint_url), Typed(tmp_path / "typed")
    async with world.open() as kit:
        await world.hired(kit)
        run.kit = kit
        terms = await world.handed(kit, 40)
        client = await kit.clients.named("alice")
        assert (await kit.plan(client, *FEE, PARAMS)).payment is not None
        refused = await fails(run, "mint", "remove", mint_url)
        assert refused.code == REFUSED and terms.ticket_id in refused.error["message"]
        assert kit.ecash.named == (mint_url,)
        assert (await run("mint", "remove", mint_url, "--force"))["named"] is False
        assert (await kit.plan(client, *FEE, PARAMS)).payment is None
        with pytest.raises(HiveError, match="can be worked for now"):
            await kit.tickets.planned(await kit.plan(client, *FEE, PARAMS), terms.ticket_id, 0)
    await world.close()


async def halted(run: Typed, payer: EcashWorld) -> None:
    """A halt holds what goes out, not what comes in."""
    halt = HaltFile(run.paths.halt)
    halt.engage("odd figures", 1)
    refused = await fails(run, "send", "10")
    assert (refused.code, refused.error["slug"]) == (REFUSED, "emergency_stop")
    assert "the guard is halted" in refused.error["message"]
    assert (await fails(run, "melt", invoice_of(10))).code == REFUSED
    token = (await payer.service.send(40, None, None, None, 30)).body.token
    assert (await run("receive", token))["state"] == "done"
    halt.release()


async def test_acceptance_11_07_a_restored_profile_asks_its_mints_before_ecash_counts(
    mint_url: str, tmp_path: Path
) -> None:
    run, there = Typed(tmp_path / "one"), Typed(tmp_path / "two")
    run.paths.make()
    write_identity(run.paths.identity, run.identity, PASSPHRASE, now=1)
    there.identity = run.identity
    payer = EcashWorld(tmp_path / "payer", mint_url)
    await payer.service.fund(1_000, None, None, 30)

    async def token(amount: int) -> str:
        return (await payer.service.send(amount, None, None, None, 30)).body.token

    async with run.open():
        await run("mint", "add", mint_url)
        await run("receive", await token(256))
        create(run.paths, tmp_path / "week.hive", PASSPHRASE, 1)
        gone = await run("send", "100", "--to", payer.service.receive_pubkey)
        await payer.service.receive(gone["token"], 30)
        await run("receive", await token(64))
        have = (await run("balance"))["total_sats"]
    await restore(there.paths, tmp_path / "week.hive", PASSPHRASE, replace_all=False)
    async with there.open():
        (row,) = (await there("balance"))["mints"]
        assert (row["free_sats"], row["held_sats"], row["quarantined_sats"] > 200) == (0, 0, True)
        await there.kit.ecash.tick()
        (row,) = (await there("balance"))["mints"]
        assert (row["free_sats"], row["held_sats"], row["quarantined_sats"]) == (have, 0, 0)
        # New ecash has counters of its own: the mint signs it.
        assert (await there("send", "50", "--to", payer.service.receive_pubkey))["state"] == "done"
    await payer.close()


async def test_the_same_as_typed_in_a_shell(mint_url: str, tmp_path: Path) -> None:
    shell = AdvisorShell(tmp_path / "advisor", ["ws://127.0.0.1:1"])
    await shell.run("identity", "create")
    assert (await shell.run("wallet", "mint", "add", mint_url))["mint"] == mint_url
    assert (await shell.run("wallet", "balance"))["total_sats"] == 0
    with pytest.raises(AdvisorFailed) as failed:
        await shell.run("--yes", "wallet", "send", "10")
    assert (failed.value.code, failed.value.error["data"]["reason"]) == (PAYMENT, "insufficient_ecash")


def test_mints_of_a_settings_file_change_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    for text in (
        "",
        "# mine\n[relays]\nprimary = ['wss://a.example']\n",
        'mints = ["https://b.example"]\n[auto]\nenabled = true # yes\n',
        "mints=[]",
    ):
        made = with_mints(text, ["https://a.example", "https://b.example"])
        file.write_text(made)
        assert load_config(file).mints == ("https://a.example", "https://b.example")
        assert all(line in made for line in text.splitlines() if not line.startswith("mints"))
        file.write_text(with_mints(made, []))
        assert load_config(file).mints == ()
    for text in ('mints = [\n "https://a.example", # good\n]\n', 'mints = ["a"] # mine\n', "mints = [\n"):
        with pytest.raises(InvalidParams):
            with_mints(text, ["https://b.example"])
    for bad in ("mints = 'https://a.example'", "mints = ['ftp://a.example']", "mints = ['http://a.example']"):
        file.write_text(bad)
        with pytest.raises(InvalidParams, match="mints"):
            load_config(file)


def test_wallet_words_are_completed() -> None:
    found = ShellComplete(cli, {}, "hive-advisor", "_X").get_completions(["wallet"], "")
    assert {item.value for item in found} == {"balance", "mint", "receive", "send", "melt", "restore", "ops"}
