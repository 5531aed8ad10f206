"""Entry point and global options. Groups are imported when used: ``--help`` stays quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hive_advisor.cli import output
from hive_advisor.cli.context import Settings
from hive_advisor.cli.output import Terminal

_COMMANDS = {
    "identity": "hive_advisor.cli.identities:identity",
    "backup": "hive_advisor.cli.backup:backup",
    "profile": "hive_advisor.cli.adverts:profile",
    "offer": "hive_advisor.cli.adverts:offer",
    "inbox": "hive_advisor.cli.hiring:inbox",
    "thread": "hive_advisor.cli.hiring:thread",
    "contract": "hive_advisor.cli.hiring:contract",
    "client": "hive_advisor.cli.clients:client",
    "schema": "hive_advisor.cli.schemas:schema",
    "send": "hive_advisor.cli.commands:send",
    "command": "hive_advisor.cli.commands:command",
    "pay": "hive_advisor.cli.pay:pay",
    "ticket": "hive_advisor.cli.tickets:ticket",
    "receipt": "hive_advisor.cli.receipts:receipt",
    "wallet": "hive_advisor.cli.wallet:wallet",
    "telemetry": "hive_advisor.cli.telemetry:telemetry",
    "journal": "hive_advisor.cli.journal:journal",
    "alerts": "hive_advisor.cli.alerts:alerts",
    "approvals": "hive_advisor.cli.approvals:approvals",
    "guard": "hive_advisor.cli.guard:guard",
    "node": "hive_advisor.cli.nodes:node",
    "mcp": "hive_advisor.cli.mcp:mcp",
    "run": "hive_advisor.cli.system:run",
    "status": "hive_advisor.cli.system:status",
    "follow": "hive_advisor.cli.system:follow",
    "doctor": "hive_advisor.cli.system:doctor",
    "version": "hive_advisor.cli.system:version",
    "completion": "hive_advisor.cli.system:completion",
}

_SUMMARIES = {
    "identity": "create, import and show the advisor's identity, set its PIN",
    "backup": "the whole profile in one file: create, verify, restore",
    "profile": "what you say of yourself on the market: edit, preview, publish, pause, withdraw",
    "offer": "what you offer on the market: create, list, show, update, fill, withdraw",
    "inbox": "operators who want to hire you, and how far that is",
    "thread": "a negotiation: show, counter, accept, reject, abort",
    "contract": "what both sides sign: list, show, sign, terminate, emergency, verify, export",
    "client": "nodes that offered or granted a credential",
    "schema": "what can be asked of a node: parameters, ranges, danger",
    "send": "send one command to a client and wait for its answer",
    "command": "list, show, wait for, query, cancel and confirm commands",
    "receipt": "receipts of what nodes did: list, show, sync, verify, ack, export, evidence",
    "pay": "fees that nodes ask for access: list, show, attach what was paid",
    "wallet": "ecash at mints you trust: balance, mint, receive, send, melt, restore, ops",
    "ticket": "ecash locked for your work: list, show, check, redeem, dispute",
    "telemetry": "figures that nodes send by themselves: subscribe, unsubscribe, show, log, follow, export",
    "journal": "what was measured and decided: trend, add, list, outcome, goals",
    "alerts": "what nodes or the kit want a human to see: list, ack, resolve",
    "approvals": "commands that wait for your word, your own and other nodes': list, show, approve, reject",
    "guard": "your own limits: show, check, halt, release",
    "node": "your own nodes: add, list, check, report, watch, call, pending, approve, reject, rune",
    "mcp": "tools for a program (AI), on your own nodes or for clients: serve, tools, allow, log",
    "run": "fetch messages, answer, resend what is open",
    "status": "a brief of everything open",
    "follow": "events since a cursor",
    "doctor": "check clock, relays, key, database, credentials",
    "version": "version of the kit",
    "completion": 'shell completion: eval "$(hive-advisor completion bash)"',
}


class LazyGroup(click.Group):
    """Loads the module of a subcommand when that subcommand is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name].split(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit; what click refuses comes out as §10 says, as JSON where asked."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            ended: Any = super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            output.misused(error, as_json="--json" in words)
        except click.Abort:
            output.interrupted(Terminal("--json" in words))
        except BrokenPipeError:
            output.closed_pipe()
        sys.exit(ended if isinstance(ended, int) else output.OK)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))


@click.group(cls=LazyGroup, context_settings={"auto_envvar_prefix": "HIVE_ADVISOR"})
@click.option("--profile", default="default", show_default=True, help="identity and files to use")
@click.option("--config", "config_dir", type=click.Path(path_type=Path), help="directory of config.toml")
@click.option("--relays", help="comma list of relays instead of the configured ones")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
@click.option("--quiet", is_flag=True, help="no progress lines")
@click.option("-v", "--verbose", is_flag=True, help="tracebacks of internal errors")
@click.option("--timeout", default=20, show_default=True, help="seconds for relays to accept a message")
@click.option("--wait", default=60, show_default=True, help="seconds to wait for an answer")
@click.option("--yes", is_flag=True, help="do not ask (danger up to 6)")
@click.option("--passphrase-fd", type=int, help="file descriptor to read the passphrase from")
@click.pass_context
def cli(
    ctx: click.Context,
    profile: str,
    config_dir: Path | None,
    relays: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    timeout: int,
    wait: int,
    yes: bool,
    passphrase_fd: int | None,
) -> None:
    """Manage Lightning nodes you were authorised for, through encrypted Nostr messages."""
    from hive_advisor.paths import profile_paths

    try:
        paths = profile_paths(profile, config_dir)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    terminal = Terminal(as_json=as_json, quiet=quiet or as_json)
    ctx.obj = Settings(paths, terminal, wait, timeout, yes, verbose, passphrase_fd, relays)


def main() -> None:
    """Console script ``hive-advisor``."""
    cli(prog_name="hive-advisor")
