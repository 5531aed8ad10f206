"""What the plugin writes to its standard output while ecash moves (docs/protocol/03 §14.24)."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from comms_world import PLUGIN, call, refused, relay_options, until
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_devnet.network import open_network
from hive_devnet.relay import RelayProcess

WALLET = "hive-client-wallet"


def documents(text: str) -> list[object]:
    """The JSON documents one after the other; anything else between them is an error."""
    found, decoder, place = [], json.JSONDecoder(), 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        document, place = decoder.raw_decode(text, place)
        found.append(document)
    return found


async def test_acceptance_03_24_stdout_carries_only_json_rpc_during_fund_restore_and_errors(
    mint_url: str,
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    written, script = directory / "stdout", directory / "cl-hive-comms.sh"
    script.write_text(f'#!/bin/sh\n"{PLUGIN}" | tee "{written}"\n')
    script.chmod(0o755)
    relay = await RelayProcess.start()
    network = await open_network(directory / "net")
    try:
        async with MintFaultFront.before(mint_url) as front:
            options = {**relay_options(relay), "hive-comms-escrow-mint": front.url}
            node = await network.add_node("alice", options, [script])
            await until(lambda: call(node, "hive-client-status"), "the plugin answers")
            assert (await call(node, WALLET, action="fund", amount_sats=64))["state"] == "done"
            assert (await call(node, WALLET, action="probe"))["status"] == "trusted"
            sent = await call(node, WALLET, action="send", amount_sats=8)
            await call(node, WALLET, action="receive", token=sent["token"])
            for dry_run in (True, False):
                await call(node, WALLET, action="restore", dry_run=dry_run)
            for wrong in ("cashuBxxxx", "cashuAeyJ4Ijox", sent["token"][:-8]):
                await refused(node, WALLET, action="receive", token=wrong)
            front.set(MintFault(MintFaultKind.GARBAGE, path="/v1/restore", times=1))
            await refused(node, WALLET, action="restore")
            front.set(MintFault(MintFaultKind.BAD_DLEQ, path="/v1/restore", times=1))
            await refused(node, WALLET, action="restore")
            await refused(node, WALLET, action="fund", amount_sats=90_000)
        answers = documents(written.read_text())
        # The manifest, the start, and every call above.
        assert len(answers) >= 14
        for each in answers:
            assert isinstance(each, dict) and each["jsonrpc"] == "2.0", each
            assert "method" in each or "result" in each or "error" in each, each
    finally:
        await network.close()
        await relay.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_words_between_documents_are_found() -> None:
    assert documents('{"a": 1}\n\n{"b": 2}') == [{"a": 1}, {"b": 2}]
    with pytest.raises(json.JSONDecodeError):
        documents('{"a": 1}\nGenerated a new mnemonic\n{"b": 2}')
