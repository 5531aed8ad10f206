"""The embedded node's commands take the parameters that CLN's schemas name, and CLN's required ones."""

from __future__ import annotations

import hive_devnet.embedded.commands  # noqa: F401  registers every command
import pytest
from cln_contract import SchemaBook
from hive_devnet.embedded.registry import COMMANDS, Command

# Subcommands take the rest by themselves; `parsefeerate` is documented under another name than the code has.
_OTHERWISE = {"plugin", "check", "parsefeerate"}
# In CLN since v24.11 and without a schema; held to it by test_cln_conformance_splice.
_UNDOCUMENTED = {"abort_channels"}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_parameters_are_clns(command: Command, need_schemas: SchemaBook) -> None:
    if command.name in _UNDOCUMENTED:
        return
    assert need_schemas.knows(command.name), f"CLN has no command {command.name}"
    if command.name in _OTHERWISE:
        return
    documented = need_schemas.parameters(command.name)
    ours = [spec.name for spec in command.params]
    assert set(ours) == set(documented)
    required = need_schemas.required(command.name)
    assert [spec.name for spec in command.params if spec.required] == [n for n in ours if n in required]
