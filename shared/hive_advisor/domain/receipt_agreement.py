"""Whether a receipt says what the node answered and what we sent (docs/protocol/11-advisor-kit.md §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hive_shared import envelope
from hive_shared.canonical import encode
from hive_shared.crypto import sha256
from hive_shared.errors import HiveError
from hive_shared.hidden import hidden
from hive_shared.registry import CONTROL, find

from hive_advisor.domain.answer import Answer
from hive_advisor.domain.command_machine import CommandEvent

_STATUS: Final[Mapping[CommandEvent, frozenset[str]]] = {
    CommandEvent.ON_SUCCESS: frozenset({"success"}),
    CommandEvent.ON_PARTIAL: frozenset({"partial"}),
    CommandEvent.ON_REJECTED: frozenset({"rejected"}),
    # Status 2 is also what a command is refused with that the node cannot serve.
    CommandEvent.ON_ERROR: frozenset({"error", "rejected"}),
    CommandEvent.ON_CANCELLED: frozenset({"cancelled"}),
    CommandEvent.ON_EXPIRED: frozenset({"expired"}),
    CommandEvent.ON_INDETERMINATE: frozenset({"indeterminate"}),
}


def changes_something(schema: str, action: str) -> bool:
    """Whether a node gives a receipt of its own for this: reads and words about commands have none."""
    if schema == CONTROL:
        return False
    try:
        return not find(schema, action).read_only
    except HiveError:
        # An action of another version of the kit.
        return True


def difference(document: Mapping[str, Any], question: Mapping[str, Any], answer: Answer) -> str | None:
    """Why a receipt does not fit our command, the envelope `question`, and the answer to it, or None.

    Refusals of one kind within a minute share a receipt (docs/protocol/02-fleet-management.md §7.1), so the
    receipt of a refusal may name an earlier command of ours, refused for the same reason.
    """
    if document.get("command_hash") != envelope.command_digest(dict(question)).hex():
        return None if _shared_refusal(document, answer) else "it names another command hash"
    if str(document.get("nonce")) != str(question.get("nonce")):
        return "it names another nonce"
    if document.get("agent_signature") != question.get("signature"):
        return "it carries another signature than ours"
    if answer.event is CommandEvent.ON_PENDING:
        return "it came before the command had ended"
    status = document.get("status")
    if status not in _STATUS[answer.event]:
        return f"it says {str(status)[:40]!r}, the answer {answer.event.removeprefix('on_')!r}"
    error = document.get("error")
    slug = error.get("slug") if isinstance(error, Mapping) else None
    if slug != answer.slug:
        return f"it says {str(slug)[:60]}, the answer {answer.slug}"
    if not _same_result(document, answer.result):
        return "its result is not that of the answer"
    return _other_params(document, params_of(question))


def _shared_refusal(document: Mapping[str, Any], answer: Answer) -> bool:
    error = document.get("error")
    same = isinstance(error, Mapping) and error.get("slug") == answer.slug
    return (
        same
        and document.get("status") == "rejected"
        and answer.event in (CommandEvent.ON_REJECTED, CommandEvent.ON_ERROR)
    )


def _same_result(document: Mapping[str, Any], told: Any) -> bool:
    if "result_hash" in document:
        return "result" not in document and document["result_hash"] == sha256(encode(told)).hex()
    return (document.get("result") or None) == (hidden(told) or None)


def params_of(question: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a command's envelope."""
    payload = question.get("schema_payload")
    params = payload.get("params") if isinstance(payload, Mapping) else None
    return dict(params) if isinstance(params, Mapping) else {}


def _other_params(document: Mapping[str, Any], params: dict[str, Any]) -> str | None:
    if document.get("params") == hidden(params):
        return None
    if document.get("status") == "rejected":
        # What was refused is kept short, as its hash, where it was long.
        short = {"sha256": sha256(encode(params)).hex(), "bytes": len(encode(params))}
        return None if document.get("params") == short else "it names other parameters than ours"
    approval = document.get("approval")
    asked = approval.get("original_params_hash") if isinstance(approval, Mapping) else None
    if asked == sha256(encode(params)).hex():
        return None
    return "it names other parameters than ours, and no operator's change of them"


def edited(document: Mapping[str, Any], params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an operator changed when approving: by parameter, what we asked for and what was done."""
    done = document.get("params")
    asked = hidden(params)
    if not isinstance(done, Mapping) or not isinstance(asked, dict) or document.get("status") == "rejected":
        return {}
    return {
        name: {"asked": asked.get(name), "done": done.get(name)}
        for name in sorted({*asked, *done})
        if asked.get(name) != done.get(name)
    }
