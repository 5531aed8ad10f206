"""A person at a terminal: the advisor's command line on a pseudo-terminal, prompts answered as they come."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
from typing import Any

from hive_devnet.world import AdvisorFailed, AdvisorShell

_TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
# What runs behind a shell's "&" is started with SIGINT ignored, and would hand that on.
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


async def at_terminal(shell: AdvisorShell, *arguments: str, answers: dict[str, str]) -> Any:
    """Run ``hive-advisor --json ARGUMENTS``; for each prompt (a piece of its text) type the answer.

    Returns ``data``. Raises AdvisorFailed, whose ``stderr`` is what the terminal showed.
    """
    return await asyncio.to_thread(_run, shell, arguments, dict(answers))


def _run(shell: AdvisorShell, arguments: tuple[str, ...], answers: dict[str, str]) -> Any:
    master, slave = pty.openpty()

    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, "-m", "hive_advisor", "--json", *arguments],
        env=shell.env,
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    watchdog = threading.Timer(90, process.kill)
    watchdog.start()
    shown, done = "", 0
    try:
        while True:
            try:
                chunk = os.read(master, 4096)
            except OSError:
                break  # the other end is closed
            if not chunk:
                break
            shown += chunk.decode(errors="replace")
            for prompt, answer in answers.items():
                at = shown.find(prompt, done)
                # The prompt ends with ": "; before that getpass may not listen yet.
                if at >= 0 and ": " in shown[at:]:
                    done = len(shown)
                    os.write(master, answer.encode() + b"\n")
        out, _ = process.communicate()
    finally:
        watchdog.cancel()
        os.close(master)
    try:
        body = json.loads(out)
    except ValueError:
        body = {"ok": False, "error": {"slug": "no_json", "message": out.decode(errors="replace")[-500:]}}
    if process.returncode != 0 or not body.get("ok"):
        raise AdvisorFailed(process.returncode or 1, body.get("error", body.get("data", {})), shown)
    return body["data"]
