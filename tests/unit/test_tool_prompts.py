"""Prompts and resources of the MCP server: what names what, and files of the human's own (11 §11.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hive_advisor.domain import tool_prompts, tool_resources
from hive_advisor.domain.advisor_tools import ADVISOR_TOOLS
from hive_advisor.domain.methods import tool_table
from hive_advisor.domain.node_tool_sets import own_tools
from hive_advisor.domain.tool_resources import called
from hive_advisor.operator_files import read_prompts
from hive_shared.errors import InvalidParams, NotFound


def write(directory: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_is_a_prompt_only_inside_its_directory_and_under_its_owners_hand(tmp_path: Path) -> None:
    outside = write(tmp_path, "secret.txt", "nsec1...")
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    write(prompts, "weekly-Report_1.md", "Look at the week.")
    write(prompts, "long.md", "x" * 4_001)
    write(prompts, "just.md", "\u00e4" * 4_000)
    write(prompts, "empty.md", "")
    write(prompts, "open.md", "anybody's", 0o622)
    write(prompts, "cycle.md", "taken")
    write(prompts, "a b.md", "no name")
    (prompts / "bytes.md").write_bytes(b"\xff\xfe")
    (prompts / "leak.md").symlink_to(outside)
    (prompts / "dangling.md").symlink_to(tmp_path / "nothing")
    (prompts / "folder.md").mkdir()
    found, warnings = read_prompts(prompts, {"cycle"})
    assert sorted(found) == ["just", "weekly-Report_1"]
    assert found["weekly-Report_1"].text == "Look at the week."
    assert len(warnings) == 9 and all("is left out" in warning for warning in warnings)
    assert read_prompts(tmp_path / "none", ()) == ({}, [])


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("review_client", {}, "needs the argument client"),
        ("review_client", {"client": "npub1abc"}, "reserved"),
        ("review_client", {"client": "a\u202eb"}, "printable"),
        ("review_client", {"client": "alice", "more": "x"}, "takes no argument"),
        ("cycle", {"client": "alice"}, "takes no argument"),
    ],
)
def test_a_prompt_with_wrong_arguments(name: str, arguments: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidParams, match=words):
        tool_prompts.made(tool_prompts.ADVISOR, name, arguments)


def test_an_alias_stands_in_quotes_and_cannot_leave_them() -> None:
    text = tool_prompts.made(tool_prompts.ADVISOR, "review_client", {"client": 'al"ice {client}'})
    assert 'my client "al\\"ice {client}":' in text
    with pytest.raises(NotFound):
        tool_prompts.made(tool_prompts.ADVISOR, "../cycle", {})


def test_prompts_and_resources_name_tools_that_exist() -> None:
    words = {word.strip(".,;:") for each in tool_prompts.ADVISOR.values() for word in each.text.split()}
    assert {word for word in words if word.startswith("adv_")} <= set(ADVISOR_TOOLS)
    operator = {*tool_table(), *own_tools(("n",))}
    for resource in tool_resources.OPERATOR:
        assert resource.tool in operator
    for resource in tool_resources.ADVISOR:
        declared = {param.name for param in ADVISOR_TOOLS[resource.tool].params}
        assert {*resource.arguments, *([resource.takes] if resource.takes else [])} <= declared


def test_addresses_and_what_they_ask() -> None:
    advisor = tool_resources.ADVISOR
    assert called(advisor, "hive://advisor/status") == ("adv_status", {})
    assert called(advisor, "hive://client/Ren%C3%A9%2Fb/receipts") == ("adv_receipts", {"client": "René/b"})
    assert called(advisor, "hive://client/alice/channels")[1]["action"] == "hive:monitor/channel_list"
    for wrong in (
        "hive://client//status",
        "hive://client/a/b/status",
        "hive://client/alice/status?x=1",
        "hive://advisor/statusx",
        "file:///etc/passwd",
        "hive://client/" + "a" * 600 + "/status",
        "",
    ):
        with pytest.raises(NotFound):
            called(advisor, wrong)
