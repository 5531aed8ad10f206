"""Entries of hive:backup/v1 for the table of actions (02 §4 item 13)."""

from __future__ import annotations

import hashlib
import json

from action_table import Answer, Entry, Params, Stage, given
from hive_shared.crypto import Secret
from hive_shared.nostr import nip44
from hive_shared.registry import BACKUP

OPERATOR = Secret(b"\x31" * 32)
"""Whose public key the stage's node has in hive-comms-alert-nostr-dm."""

CLOSED = ("CLOSINGD_COMPLETE", "FUNDING_SPEND_SEEN", "ONCHAIN")


async def _channels(stage: Stage) -> list[str]:
    return sorted(row["channel_id"] for row in (await stage.call("listpeerchannels"))["channels"])


async def _is_there(stage: Stage, params: Params, result: Answer) -> None:
    directory = stage.world.alice.net_dir / "hive" / "backup" / result["backup_id"]
    for file in result["files"]:
        assert hashlib.sha256((directory / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    opened = await stage.call("hive-client-open-backup", backup_id=result["backup_id"])
    assert opened["scb"] == (await stage.call("staticbackup"))["scb"]
    passphrase = directory / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text((await stage.call("makesecret", string="hive-comms-backup-v1"))["secret"])
    own = str(directory / "comms.sealed")
    dry = await stage.call("hive-client-restore", path=own, passphrase_file=str(passphrase))
    assert dry["dry_run"] is True and len(dry["parts"]) > 1, "the operator opens it as the guide says"
    assert result["missing_channels"] == [] and result["channels"] == len(await _channels(stage))


async def _one(stage: Stage) -> Params:
    made = await stage.run(BACKUP, "trigger_backup", {})
    return {"backup_id": made["backup_id"]}


async def _is_whole(stage: Stage, params: Params, result: Answer) -> None:
    assert result["intact"] is True and result["complete"] is True, result
    assert result["channels"] == len(await _channels(stage))
    # Other entries close channels; the node lists those, and backs them up, until it forgets them.
    listed = (await stage.call("listpeerchannels"))["channels"]
    closed = sorted(row["channel_id"] for row in listed if row["state"] in CLOSED)
    assert result["gone_channels"] == closed
    assert result["emergency_recover"]["missing_channels"] == []


async def _opens(stage: Stage, params: Params, result: Answer) -> None:
    key = nip44.conversation_key(OPERATOR, result["sealed_by"])
    (text,) = (json.loads(nip44.decrypt(key, part)) for part in result["parts"])
    assert text["scb"] == (await stage.call("staticbackup"))["scb"]


ENTRIES = (
    Entry(BACKUP, "trigger_backup", given(backup_type="full"), _is_there, given(backup_type="everything")),
    Entry(BACKUP, "verify_backup", _one, _is_whole, given(backup_id="../../../etc")),
    Entry(BACKUP, "export_scb", given(), _opens, given(path="a-file")),
)
