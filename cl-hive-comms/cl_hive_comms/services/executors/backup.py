"""hive:backup/v1: backups on the node, looking at them, and one that only the operator can open
(docs/protocol/02-fleet-management.md §4 item 13, docs/decisions/0385, 0386)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from hive_shared.canonical import JsonValue, encode
from hive_shared.cln import ClnError
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import HiveError, NotFound, from_symbol
from hive_shared.nostr import nip44

from ...domain.node_backup import KEY_LABEL, NodeBackup, backed_up, is_backup_id, needing
from ..node_backups import BackupKey, NodeBackups
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan, WriteAction
from .node_errors import node_error

_PART_BYTES: Final = 48_000
"""Channel entries in one NIP-44 text, which holds 65,535 bytes."""
_MOST_SEALED_BYTES: Final = 900_000
"""A message carries 1 MiB."""
_LISTED: Final = 100
_WITHOUT_VAULT: Final = "not stored there: this needs cl-hive-archon"
_NOT_READ: Final = "what staticbackup answered could not be read; nothing was backed up"


class _Calls(Protocol):
    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]: ...


async def backup_key(node: _Calls) -> BackupKey:
    """The key of this node's backups. Raises ClnError."""
    answer = await node.call("makesecret", {"string": KEY_LABEL})
    return BackupKey(Secret(bytes.fromhex(str(answer["secret"]))))


async def _static(node: Node) -> tuple[list[str], frozenset[str]]:
    """What `staticbackup` gives, and the ids of its channels. Raises ClnError, ValueError."""
    scb = [str(entry) for entry in (await node.call("staticbackup"))["scb"]]
    return scb, backed_up(scb)


def _failed(error: ClnError | HiveError | OSError | ValueError) -> Outcome:
    if isinstance(error, ClnError):
        told = node_error(error)
    elif isinstance(error, OSError):
        told = from_symbol("node_error", f"the backup could not be written: {error.strerror}", rpc="", code=0)
    elif isinstance(error, ValueError):
        told = from_symbol("node_error", _NOT_READ, rpc="staticbackup", code=0)
    else:
        told = error
    return Outcome("error", {}, told, acted=False)


def _some(ids: Collection[str]) -> list[JsonValue]:
    return list(sorted(ids)[:_LISTED])


class TriggerBackup:
    """`trigger_backup`: the channels' static backup, with `full` also this plugin's own, in sealed files."""

    def __init__(self, node: Node, backups: NodeBackups, node_id: str) -> None:
        self._node, self._backups, self._node_id = node, backups, node_id

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Choose its name. Raises InvalidParams when nothing would be in it."""
        kind, with_scb = params["backup_type"], params["include_scb"] is True
        if kind == "scb" and not with_scb:
            raise from_symbol(
                "invalid_params",
                "a backup of type scb without the scb holds nothing; ask for backup_type full",
                param="include_scb",
                expected="true, or backup_type full",
            )
        return Plan(
            undo={
                "backup_id": self._backups.random_bytes(8).hex(),
                "backup_type": kind,
                "include_scb": with_scb,
            },
            basis=[kind, with_scb],
            locks=frozenset({"backup"}),
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Write it. What cannot be written is gone altogether."""
        undo, scb, ids = plan.undo, None, frozenset[str]()
        try:
            key = await backup_key(self._node)
            live = needing(await self._node.listpeerchannels())
            if undo["include_scb"]:
                scb, ids = await _static(self._node)
            wanted = NodeBackup(
                str(undo["backup_id"]), self._node_id, str(undo["backup_type"]), caller.now, len(ids), ()
            )
            made, digest = await self._backups.make(wanted, scb, key)
        except (ClnError, HiveError, OSError, ValueError) as error:
            return _failed(error)
        result = _made(made, digest)
        if scb is not None:
            result["missing_channels"] = _some(live - ids)
        return Outcome("success", result)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """What bears its name is whole; what does not is no backup."""
        try:
            found = await self._backups.find(str(undo["backup_id"]), await backup_key(self._node))
        except ClnError:
            return None
        if found is not None:
            return Outcome("success", _made(*found))
        text = "the plugin stopped before the backup was written; there is none"
        return Outcome("error", {}, from_symbol("shutting_down", text), acted=False)


async def open_channels(node: _Calls, backups: NodeBackups, backup_id: str) -> dict[str, Any]:
    """For the operator, on the node: the channel entries of a backup. Raises NotFound, ClnError."""
    key = await backup_key(node)
    found = await backups.find(backup_id, key) if is_backup_id(backup_id) else None
    looked = None if found is None else await backups.look(found[0], key)
    if found is None or looked is None or looked.scb is None:
        raise NotFound(
            f"no backup {backup_id[:40]!a} of this node with channel entries that open; its directory belongs"
            " into hive/backup beside the node's database"
        )
    return {**found[0].to_doc(), "scb": list(looked.scb)}


def _made(backup: NodeBackup, digest: str) -> dict[str, JsonValue]:
    result: dict[str, JsonValue] = {**backup.to_doc(), "sha256": digest}
    if backup.kind == "full":
        result["vault"] = _WITHOUT_VAULT
    return result


class VerifyBackup:
    """`verify_backup`: whether a backup is whole and has every channel that needs one."""

    def __init__(self, node: Node, backups: NodeBackups) -> None:
        self._node, self._backups = node, backups

    async def read(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """Of the newest backup unless one is named. Raises InvalidParams when there is none, ClnError."""
        key = await backup_key(self._node)
        backup, digest = await self._chosen(params.get("backup_id"), key)
        looked = await self._backups.look(backup, key)
        live = needing(await self._node.listpeerchannels())
        result: dict[str, JsonValue] = {
            **backup.to_doc(),
            "sha256": digest,
            "age_s": max(0, caller.now - backup.created_at),
            "intact": not looked.broken,
            "broken_files": list(looked.broken),
        }
        held: frozenset[str] | None = None
        if looked.scb is not None:
            held = backed_up(looked.scb)
            result["channels"] = len(held)
            result["missing_channels"] = _some(live - held)
            result["gone_channels"] = _some(held - live)
        result["complete"] = held is not None and live <= held and not looked.broken
        result["emergency_recover"] = await self._emergency(live)
        return result

    async def _chosen(self, backup_id: JsonValue, key: BackupKey) -> tuple[NodeBackup, str]:
        if backup_id is None:
            listed, _ = await self._backups.all(key)
            backup_id = listed[0].backup_id if listed else None
        found = None if backup_id is None else await self._backups.find(str(backup_id), key)
        if found is None:
            raise from_symbol(
                "invalid_params",
                "this node has no backup yet; trigger_backup makes one"
                if backup_id is None
                else f"this node has no backup {backup_id}; hive:monitor/v1 backup_status names the newest",
                param="backup_id",
                expected="the id of a backup that is kept",
            )
        return found

    async def _emergency(self, live: frozenset[str]) -> dict[str, JsonValue]:
        """What the node's own emergency.recover lacks."""
        try:
            data = await self._node.call("getemergencyrecoverdata")
        except ClnError as error:
            return {"available": False, "reason": node_error(error).symbol}
        ids = data.get("backed_up_channel_ids")
        if not isinstance(ids, list):
            return {"available": True}
        return {"available": True, "missing_channels": _some(live - set(map(str, ids)))}


class ExportScb:
    """`export_scb`: the static channel backup for the operator's key, which is not on this node."""

    def __init__(self, node: Node, backups: NodeBackups, node_id: str) -> None:
        self._node, self._backups, self._node_id = node, backups, node_id

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Note the key. Raises Unsupported while the operator has set none."""
        key = self._backups.operator_key()
        if key is None:
            raise from_symbol(
                "unsupported_action",
                "the operator has set no hive-comms-alert-nostr-dm, the key that an export is sealed to",
            )
        return Plan(undo={"recipient": key}, basis=[key])

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Seal with a key that is used once: nobody but the operator can open it, this node neither."""
        recipient = str(plan.undo["recipient"])
        try:
            scb, ids = await _static(self._node)
        except (ClnError, ValueError) as error:
            return _failed(error)
        once = Secret(self._backups.random_bytes(32))
        conversation = nip44.conversation_key(once, recipient)
        pieces = _pieces(scb)
        parts: list[JsonValue] = []
        for number, piece in enumerate(pieces, 1):
            entries: list[JsonValue] = list(piece)
            text = encode(
                {
                    "node_id": self._node_id,
                    "created_at": caller.now,
                    "part": number,
                    "of": len(pieces),
                    "scb": entries,
                }
            )
            parts.append(nip44.encrypt(conversation, text.decode()))
        if sum(len(str(part)) for part in parts) > _MOST_SEALED_BYTES:
            told = from_symbol(
                "node_error",
                f"the backup of {len(ids)} channels is too long for a message; trigger_backup keeps it here",
                rpc="staticbackup",
                code=0,
            )
            return Outcome("error", {}, told, acted=False)
        return Outcome(
            "success",
            {
                "recipient": recipient,
                "sealed_by": xonly_pubkey(once),
                "encryption": "nip44-v2",
                "channels": len(ids),
                "parts": parts,
            },
        )

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Nobody got it, and the node is as it was."""
        text = "the plugin stopped before the export was handed out; ask again"
        return Outcome("error", {}, from_symbol("shutting_down", text), acted=False)


def _pieces(scb: Sequence[str]) -> list[list[str]]:
    """Whole entries, as many as one text holds; one empty piece for a node without channels."""
    pieces: list[list[str]] = [[]]
    size = 0
    for entry in scb:
        if pieces[-1] and size + len(entry) > _PART_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(entry)
        size += len(entry) + 3
    return pieces


def backup_writes(node: Node, backups: NodeBackups, node_id: str) -> dict[str, WriteAction]:
    """The actions of the schema that write, by name."""
    return {
        "trigger_backup": TriggerBackup(node, backups, node_id),
        "export_scb": ExportScb(node, backups, node_id),
    }
