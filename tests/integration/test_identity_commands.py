"""``hive-advisor identity`` as its user types it: in, out, changed, refused (11 §2, §10)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hive_advisor import identity as identities
from hive_advisor.cli.main import cli
from hive_advisor.identity import Identity, Locked, read_identity, write_identity
from hive_advisor.pin import pin_verifier
from hive_devnet.world import AdvisorFailed, AdvisorShell
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, schnorr_verify, sha256
from hive_shared.nostr.keys import npub_encode, nsec_encode
from terminal import at_terminal

ROOT = Secret(bytes(range(32)))
RECOVERY = "hivesec1qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0sun7rut"
NOSTR_0 = "f13559dfab28cb340310bb7377badb31747de63514569a88d856ef7ffd4dc113"
KEY, KEY_PUB = "03".rjust(64, "0"), "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"
NSEC = nsec_encode(Secret(bytes.fromhex(KEY)))
OLD, NEW = "correct horse battery staple", "another horse, another staple"
DID = "did:cid:bagaaieratxngjcsojq24awkvqwdwv4zgy4ai6ch7ixlm4xd2yqcxoqjlkqfa"
USAGE, REFUSED, ASKED, LOCKED = 2, 4, 5, 9


@dataclass
class Shell:
    """The command line in this process, with files of its own."""

    home: Path

    def __post_init__(self) -> None:
        self.secret("passphrase", OLD)

    def secret(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.home / name
        path.write_text(text + "\n")
        path.chmod(mode)
        return path

    @property
    def env(self) -> dict[str, str]:
        return {
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_DATA_HOME": str(self.home / "data"),
            "HIVE_ADVISOR_PASSPHRASE_FILE": str(self.home / "passphrase"),
            "HIVE_ADVISOR_RELAYS": "ws://127.0.0.1:9",
        }

    @property
    def file(self) -> Path:
        return self.home / "data" / "hive-advisor" / "default" / "identity.json"

    def run(self, *arguments: str, stdin: str = "") -> tuple[int, dict[str, Any]]:
        """Exit code, and the data or the error of the answer."""
        result = CliRunner().invoke(cli, ["--json", *arguments], input=stdin, env=self.env)
        body = json.loads(result.stdout)
        assert body["schema"] == "hive-advisor/1" and body["ok"] == (result.exit_code == 0), result.output
        return result.exit_code, body["data"] if "data" in body else body["error"]

    def done(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        code, data = self.run(*arguments, stdin=stdin)
        assert code == 0, data
        return data

    def refused(self, code: int, *arguments: str, stdin: str = "") -> str:
        found, error = self.run(*arguments, stdin=stdin)
        assert found == code, error
        return str(error["message"])

    def holds(self, identity: Identity) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_identity(self.file, identity, OLD, now=1_770_000_000)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    # The cost of a passphrase has tests of its own.
    monkeypatch.setattr(identities, "_SCRYPT", {"n": 2**10, "r": 8, "p": 1})
    return Shell(tmp_path)


# -- import and export ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (RECOVERY, NOSTR_0),
        (RECOVERY.upper(), NOSTR_0),
        (NSEC, KEY_PUB),
        (KEY, KEY_PUB),
        (f"{RECOVERY}\n{NSEC}\n", KEY_PUB),
        (f"{KEY} {RECOVERY}", KEY_PUB),
    ],
    ids=["recovery", "recovery in capitals", "nsec", "hex", "recovery and nsec", "hex and recovery"],
)
@pytest.mark.parametrize("way", ["stdin", "file"])
def test_an_identity_is_imported_from_stdin_or_a_private_file(
    shell: Shell, text: str, key: str, way: str
) -> None:
    if way == "stdin":
        made = shell.done("identity", "import", stdin=text + "\n")
    else:
        made = shell.done("identity", "import", "--file", str(shell.secret("key", text)))
    assert made["npub"] == npub_encode(key)
    stored = read_identity(shell.file, OLD)
    assert stored.pubkey == key
    if "hivesec" in text.lower():
        assert stored.root == ROOT
    again = shell.refused(REFUSED, "identity", "import", stdin=text)
    assert "--profile" in again and read_identity(shell.file, OLD).root == stored.root


@pytest.mark.parametrize("given", [RECOVERY, NSEC, KEY])
def test_a_key_on_the_command_line_is_refused_and_not_repeated(shell: Shell, given: str) -> None:
    result = CliRunner().invoke(cli, ["identity", "import", given], env=shell.env)
    assert result.exit_code == USAGE and "never given as an argument" in result.stderr
    assert given not in result.output and not shell.file.exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_key_file_that_others_may_open_is_refused(shell: Shell, mode: int) -> None:
    path = shell.secret("key", RECOVERY, mode)
    assert f"chmod 600 {path}" in shell.refused(USAGE, "identity", "import", "--file", str(path))
    assert not shell.file.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "give a recovery string or a key"),
        (f"{RECOVERY} {KEY} {KEY}", "give a recovery string or a key"),
        (f"{RECOVERY} {RECOVERY}", "two of a kind"),
        (f"{KEY} {NSEC}", "two of a kind"),
        (RECOVERY[:-1], "wrong character or checksum"),
        ("00" * 32, "neither"),
        ("nsec1qqqq", "neither"),
    ],
)
def test_what_is_no_key_is_refused_with_the_reason(shell: Shell, text: str, why: str) -> None:
    message = shell.refused(USAGE, "identity", "import", stdin=text)
    assert why in message and (not text or text not in message)
    assert not shell.file.exists()


def test_files_that_cannot_be_read_are_named(shell: Shell) -> None:
    assert "No such file" in shell.refused(USAGE, "identity", "import", "--file", str(shell.home / "none"))
    binary = shell.home / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    binary.chmod(0o600)
    assert "is not text" in shell.refused(USAGE, "identity", "import", "--file", str(binary))
    assert "--passphrase-fd 99999" in shell.refused(
        USAGE, "--passphrase-fd", "99999", "identity", "import", stdin=RECOVERY
    )
    both = shell.refused(USAGE, "--passphrase-fd", "0", "identity", "import", stdin=RECOVERY)
    assert "stdin cannot hold both" in both
    shell.secret("passphrase", OLD, 0o644)
    assert "chmod 600" in shell.refused(USAGE, "identity", "import", stdin=RECOVERY)
    (shell.home / "passphrase").write_text("")
    (shell.home / "passphrase").chmod(0o600)
    assert "is empty" in shell.refused(USAGE, "identity", "import", stdin=RECOVERY)


def test_the_recovery_string_brings_the_same_keys_back(shell: Shell, tmp_path: Path) -> None:
    first = shell.done("identity", "create")
    out = shell.done("identity", "export-recovery")
    assert out["npub"] == first["npub"] and "rotation" not in out and "note" not in out
    other = shell.done("--profile", "copy", "identity", "import", stdin=out["recovery"])
    assert other["npub"] == first["npub"]
    # A bare key is not in the string: the text says so, and both together bring it back.
    bare = shell.done("--profile", "bare", "identity", "import", stdin=NSEC)
    out = shell.done("--profile", "bare", "identity", "export-recovery")
    assert "keep that key too" in out["note"]
    alone = shell.done("--profile", "alone", "identity", "import", stdin=out["recovery"])
    both = shell.done("--profile", "both", "identity", "import", stdin=f"{out['recovery']}\n{NSEC}")
    assert alone["npub"] != bare["npub"] == both["npub"]


def test_acceptance_11_02_a_wrong_passphrase_is_locked_out_for_longer_each_time(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.holds(Identity(ROOT))
    clock = [1_000_000]
    monkeypatch.setattr("hive_advisor.cli.context.time.time", lambda: clock[0])
    shell.secret("passphrase", "wrong")
    # Two are free; then 1, 2, 4 ... 300 s, counted in a file: every run here is a start of its own.
    assert "wrong passphrase" in shell.refused(LOCKED, "identity", "export-recovery")
    for wait in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        assert "wrong passphrase" in shell.refused(LOCKED, "identity", "export-recovery")
        shell.secret("passphrase", OLD)
        assert f"try again in {wait} s" in shell.refused(LOCKED, "identity", "export-recovery")
        clock[0] += wait
        shell.secret("passphrase", "wrong")
    shell.secret("passphrase", OLD)
    assert shell.done("identity", "export-recovery")["recovery"] == RECOVERY
    # The right one starts anew.
    shell.secret("passphrase", "wrong")
    assert "wrong passphrase" in shell.refused(LOCKED, "identity", "export-recovery")
    shell.secret("passphrase", OLD)
    shell.done("identity", "export-recovery")


def test_without_an_identity_every_change_says_how_to_make_one(shell: Shell) -> None:
    for command in (
        ("passphrase",),
        ("rotate",),
        ("link-did", DID),
        ("shared",),
        ("export-recovery",),
        ("show",),
    ):
        assert "identity create" in shell.refused(3, "identity", *command)


# -- the passphrase ------------------------------------------------------------------------------------


def test_the_passphrase_is_changed_by_file_or_descriptor(shell: Shell) -> None:
    shell.holds(Identity(ROOT, retired_at=(5,), pin_verifier=pin_verifier("246810", OLD)))
    before = json.loads(shell.file.read_text())
    new = shell.secret("new", NEW)
    assert (
        "put the new one there"
        in shell.done("identity", "passphrase", "--new-passphrase-file", str(new))["next"]
    )
    changed = read_identity(shell.file, NEW)
    assert (changed.root, changed.retired_at) == (ROOT, (5,)) and changed.pin_verifier is not None
    after = json.loads(shell.file.read_text())
    assert (after["npub"], after["created_at"]) == (before["npub"], before["created_at"])
    assert shell.file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Locked):
        read_identity(shell.file, OLD)
    assert not list(shell.file.parent.glob("*.new"))
    # And back, both by descriptors.
    with new.open() as old_end, (shell.home / "passphrase").open() as new_end:
        old_fd, new_fd = str(old_end.fileno()), str(new_end.fileno())
        data = shell.done("--passphrase-fd", old_fd, "identity", "passphrase", "--new-passphrase-fd", new_fd)
    assert "next" not in data
    assert read_identity(shell.file, OLD).root == ROOT


def test_a_new_passphrase_that_will_not_do_changes_nothing(shell: Shell) -> None:
    shell.holds(Identity(ROOT, pin_verifier=pin_verifier("246810", OLD)))
    before = shell.file.read_bytes()
    change = ("identity", "passphrase", "--new-passphrase-file")
    for text, why in (("", "is empty"), (OLD, "is the old one"), ("246810", "must not be the PIN")):
        assert why in shell.refused(USAGE, *change, str(shell.secret("new", text)))
    assert "chmod 600" in shell.refused(USAGE, *change, str(shell.secret("new", NEW, 0o640)))
    assert "--new-passphrase-fd" in shell.refused(USAGE, "identity", "passphrase")
    shell.secret("passphrase", "wrong")
    assert "wrong passphrase" in shell.refused(LOCKED, *change, str(shell.secret("new", NEW)))
    assert shell.file.read_bytes() == before


def test_two_changes_at_once_do_not_lose_one(shell: Shell) -> None:
    from hive_advisor.identity_change import changing
    from hive_advisor.paths import ProfilePaths

    shell.holds(Identity(ROOT))
    new = str(shell.secret("new", NEW))
    with changing(ProfilePaths("default", shell.home, shell.file.parent)):
        message = shell.refused(REFUSED, "identity", "passphrase", "--new-passphrase-file", new)
    assert "another hive-advisor changes this identity" in message
    shell.done("identity", "passphrase", "--new-passphrase-file", new)


KILLED = """
import os, signal, sys
from pathlib import Path
from hive_advisor import identity
from hive_advisor.cli.main import cli
identity._SCRYPT = {"n": 2**10, "r": 8, "p": 1}
where, seen = sys.argv[1], {"fsync": 0}

def fsync(descriptor, really=os.fsync):
    seen["fsync"] += 1
    if where == f"fsync {seen['fsync']}":
        os.kill(os.getpid(), signal.SIGKILL)
    really(descriptor)

def replace(self, target, really=Path.replace):
    if where == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    really(self, target)
    if where == "after":
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync, Path.replace = fsync, replace
cli(["--json", "identity", "passphrase", "--new-passphrase-file", sys.argv[2]])
"""


@pytest.mark.parametrize(
    ("where", "passphrase"),
    [("fsync 1", OLD), ("before", OLD), ("after", NEW), ("fsync 2", NEW)],
)
def test_a_killed_change_of_the_passphrase_leaves_the_old_or_the_new(
    shell: Shell, where: str, passphrase: str
) -> None:
    shell.holds(Identity(ROOT))
    new = shell.secret("new", NEW)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(new)],
        env={**os.environ, **shell.env},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read_identity(shell.file, passphrase).root == ROOT
    with pytest.raises(Locked):
        read_identity(shell.file, NEW if passphrase == OLD else OLD)
    # What was left over is in nobody's way.
    shell.secret("passphrase", passphrase)
    shell.secret("third", "a third one")
    shell.done("identity", "passphrase", "--new-passphrase-file", str(shell.home / "third"))
    assert read_identity(shell.file, "a third one").root == ROOT


# -- a DID -----------------------------------------------------------------------------------------------


def test_link_did_signs_the_statement_of_the_binding(shell: Shell) -> None:
    shell.holds(Identity(ROOT))
    made = shell.done(
        "identity", "link-did", DID, "--nonce", "ab" * 16, "--valid-from", "2026-11-21T19:00:00Z"
    )
    bound = {name: made[name] for name in ("bindingType", "did", "key", "nonce", "validFrom")}
    assert bound == {
        "bindingType": "nostr",
        "did": DID,
        "key": NOSTR_0,
        "nonce": "ab" * 16,
        "validFrom": "2026-11-21T19:00:00Z",
    }
    statement = "hive-bind-v1:" + sha256(encode(bound)).hex()
    assert schnorr_verify(NOSTR_0, sha256(statement.encode()), made["keyProof"])
    assert shell.done("identity", "show")["attestation"] is None
    attestation = "did:cid:bagaaiera" + "q" * 50
    stored = shell.done("identity", "link-did", DID, "--attestation", attestation)
    assert (stored["attestation"], stored["nonce"]) == (attestation, "ab" * 16)
    shown = shell.done("identity", "show")
    assert (shown["did"], shown["attestation"]) == (DID, attestation)
    # The clear field is under the seal: nobody can put another DID there.
    document = json.loads(shell.file.read_text())
    document["did_link"]["did"] = DID[:-1] + "b"
    shell.file.write_text(json.dumps(document))
    with pytest.raises(Locked):
        read_identity(shell.file, OLD)


def test_a_link_that_proves_nothing_is_refused(shell: Shell) -> None:
    shell.holds(Identity(ROOT))
    before = shell.file.read_bytes()
    link = ("identity", "link-did")
    assert "the key itself" in shell.refused(USAGE, *link, f"did:nostr:{NOSTR_0}")
    assert "neither did:cid" in shell.refused(USAGE, *link, "did:web:example.com")
    assert "32 lower-case hex" in shell.refused(USAGE, *link, DID, "--nonce", "AB" * 16)
    assert "not a time like" in shell.refused(USAGE, *link, DID, "--valid-from", "yesterday")
    assert "is not linked yet" in shell.refused(REFUSED, *link, DID, "--attestation", DID)
    assert shell.file.read_bytes() == before
    shell.done(*link, DID)
    assert "did:cid:.. of a published" in shell.refused(USAGE, *link, DID, "--attestation", "did:key:zzz")
    assert "stores what was published" in shell.refused(
        USAGE, *link, DID, "--attestation", DID, "--nonce", "ab" * 16
    )
    # After a rotation it is of the key before.
    shell.done("--yes", "identity", "rotate")
    assert "link it again" in shell.refused(REFUSED, *link, DID, "--attestation", DID)
    assert "link it again" in shell.done("identity", "show")["note"]


# -- rotation --------------------------------------------------------------------------------------------


def test_rotation_takes_the_next_key_and_says_what_is_left_to_do(shell: Shell) -> None:
    shell.holds(Identity(ROOT))
    assert "--yes" in shell.refused(ASKED, "identity", "rotate")
    assert read_identity(shell.file, OLD).rotation == 0
    done = shell.done("--yes", "identity", "rotate")
    rotated = read_identity(shell.file, OLD)
    assert done["npub"] == rotated.npub == npub_encode(rotated.pubkey)
    assert done["replaced"] == npub_encode(NOSTR_0) and done["rotation"] == rotated.rotation == 1
    assert rotated.nostr_secret(0) == Identity(ROOT).nostr_secret()
    assert rotated.nostr_secret() == Identity(ROOT).nostr_secret(1)
    assert "no market" in done["not_told"]
    assert shell.done("identity", "show")["rotation"] == 1
    out = shell.done("identity", "export-recovery")
    assert (out["recovery"], out["rotation"]) == (RECOVERY, 1)
    again = shell.done("--profile", "copy", "identity", "import", "--rotation", "1", stdin=RECOVERY)
    assert again["npub"] == done["npub"]
    third = ("--profile", "third", "identity", "import", "--rotation", "1")
    assert "goes with a recovery string" in shell.refused(USAGE, *third, stdin=KEY)
    for _ in range(2):
        shell.done("--yes", "identity", "rotate")
    assert "3 replaced keys are still read" in shell.refused(REFUSED, "--yes", "identity", "rotate")


def test_while_another_process_has_the_profile_the_key_stays(shell: Shell) -> None:
    from hive_advisor.advisor import MIGRATIONS
    from hive_shared.store import Db

    shell.holds(Identity(ROOT))
    db = Db.open(shell.file.parent / "advisor.db", MIGRATIONS)
    try:
        assert "in use" in shell.refused(REFUSED, "--yes", "identity", "rotate")
    finally:
        db.close()
    assert read_identity(shell.file, OLD).rotation == 0


def test_replaced_keys_are_read_for_thirty_days() -> None:
    day = 86_400
    first = Identity(ROOT)
    second = first.rotated(100 * day)
    third = second.rotated(120 * day)
    keys = [first.nostr_secret(number).reveal() for number in range(3)]

    def read(identity: Identity, day_: int) -> list[bytes]:
        return [secret.reveal() for secret in identity.readable_secrets(day_ * day)]

    assert read(third, 121) == keys
    assert read(third, 129) == keys and read(third, 130) == keys[1:]
    assert read(third, 149) == keys[1:] and read(third, 150) == keys[2:]


# -- at a terminal ---------------------------------------------------------------------------------------


@pytest.fixture
def person(tmp_path: Path) -> Iterator[AdvisorShell]:
    """Somebody without a passphrase file: everything is asked."""
    made = AdvisorShell(tmp_path / "p", ["ws://127.0.0.1:9"])
    made.env.pop("HIVE_ADVISOR_PASSPHRASE_FILE")
    yield made


async def test_acceptance_11_02_prompts_ask_for_key_passphrases_and_pin(person: AdvisorShell) -> None:
    again = "Repeat for confirmation"
    made = await at_terminal(
        person,
        "identity",
        "import",
        answers={"Recovery string or key": RECOVERY, "Passphrase": OLD, again: OLD},
    )
    assert made["npub"] == npub_encode(NOSTR_0)
    changed = await at_terminal(
        person,
        "identity",
        "passphrase",
        answers={"Old passphrase": OLD, "New passphrase": NEW, again: NEW},
    )
    assert changed == {"profile": "default", "passphrase": "changed"}
    with pytest.raises(AdvisorFailed, match="wrong passphrase") as wrong:
        await at_terminal(person, "identity", "export-recovery", answers={"Passphrase": OLD})
    assert wrong.value.code == LOCKED and OLD not in wrong.value.stderr
    out = await at_terminal(person, "identity", "export-recovery", answers={"Passphrase": NEW})
    assert out["recovery"] == RECOVERY
    await at_terminal(
        person, "identity", "pin", answers={"Passphrase": NEW, "New PIN": "246810", again: "246810"}
    )
    change: dict[str, str] = {"Passphrase": NEW, "Old PIN": "111111", "New PIN": "135791", again: "135791"}
    misses = person.directory / "data" / "hive-advisor" / "default" / "pin-misses.json"
    for left in ("4 tries left", "locked for 900 s"):
        with pytest.raises(AdvisorFailed, match=left) as miss:
            await at_terminal(person, "identity", "pin", answers=change)
        assert miss.value.code == LOCKED
        # Three more of the same, which the unit tests count.
        document = json.loads(misses.read_text())
        misses.write_text(json.dumps({**document, "misses": max(4, document["misses"])}))
    with pytest.raises(AdvisorFailed, match="try again in") as locked:
        await at_terminal(person, "identity", "pin", answers={**change, "Old PIN": "246810"})
    assert locked.value.code == LOCKED and "Old PIN" not in locked.value.stderr
