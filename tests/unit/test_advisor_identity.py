"""The advisor's identity file: vectors, sealing, refusal (docs/protocol/11-advisor-kit.md §2)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hive_advisor.identity import (
    Identity,
    Locked,
    UnlockThrottle,
    create_identity,
    import_identity,
    read_identity,
    write_identity,
)
from hive_shared.canonical import encode
from hive_shared.crypto import Secret
from hive_shared.errors import InvalidParams, NotFound

VECTOR = Identity(root=Secret(bytes(range(32))))
RECOVERY = "hivesec1qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0sun7rut"


def test_acceptance_11_02_vectors_of_the_root() -> None:
    assert VECTOR.recovery_string() == RECOVERY
    assert VECTOR.pubkey == "f13559dfab28cb340310bb7377badb31747de63514569a88d856ef7ffd4dc113"
    escrow = VECTOR.escrow_secret().reveal().hex()
    assert escrow == "237972e38caed0ebd8172a38ef9c6177bac5abef75253f9dc3e2804285b08fa7"


def test_recovery_string_restores_the_same_keys() -> None:
    made = create_identity()
    assert import_identity(made.recovery_string()).pubkey == made.pubkey


@pytest.mark.parametrize("position", [0, 7, 9, 30, 64])
def test_a_mistyped_recovery_string_is_refused(position: int) -> None:
    wrong = RECOVERY[:position] + ("q" if RECOVERY[position] != "q" else "p") + RECOVERY[position + 1 :]
    with pytest.raises(InvalidParams):
        import_identity(wrong)


@pytest.mark.parametrize("text", ["", "hello", "0" * 64, "f" * 64, "nsec1qqqq", "ab" * 31])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams):
        import_identity(text)


def test_a_bare_key_is_kept_beside_a_fresh_root(tmp_path: Path) -> None:
    made = import_identity("03".rjust(64, "0"))
    assert made.pubkey == "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"
    path = tmp_path / "identity.json"
    write_identity(path, made, "pass", now=1)
    again = read_identity(path, "pass")
    assert again.pubkey == made.pubkey
    assert again.root.reveal() == made.root.reveal()


def test_acceptance_11_02_wrong_passphrase_or_flipped_byte_stays_locked(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    write_identity(path, VECTOR, "right", now=1_770_000_000)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_identity(path, "right").pubkey == VECTOR.pubkey
    with pytest.raises(Locked):
        read_identity(path, "wrong")
    document = json.loads(path.read_text())
    for field in ("sealed", "nonce"):
        altered = dict(document)
        altered[field] = ("0" if altered[field][0] != "0" else "1") + altered[field][1:]
        path.write_text(json.dumps(altered))
        with pytest.raises(Locked):
            read_identity(path, "right")
    path.write_text(json.dumps({**document, "created_at": 1}))
    with pytest.raises(Locked):
        read_identity(path, "right")


def test_acceptance_11_02_the_file_holds_no_secret_in_the_clear(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    write_identity(path, VECTOR, "right", now=1)
    body = path.read_text()
    for secret in (bytes(range(32)).hex(), VECTOR.nostr_secret().reveal().hex(), RECOVERY):
        assert secret not in body


def test_acceptance_11_02_a_passphrase_costs_what_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told apart from what other tests pay (tests/quick_scrypt): opened with nothing but the library."""
    really = sys.modules["cryptography.hazmat.primitives.kdf.scrypt"].really
    monkeypatch.delitem(sys.modules, "cryptography.hazmat.primitives.kdf.scrypt")
    path = tmp_path / "identity.json"
    write_identity(path, VECTOR, "right", now=1)
    document = json.loads(path.read_text())
    salt, sealed = bytes.fromhex(document["kdf"]["salt"]), bytes.fromhex(document.pop("sealed"))
    assert document["kdf"] == {"name": "scrypt", "n": 2**17, "r": 8, "p": 1, "salt": salt.hex()}
    key = really(b"right", salt=salt, n=2**17, r=8, p=1, maxmem=160 << 20, dklen=32)
    inner = AESGCM(key).decrypt(bytes.fromhex(document["nonce"]), sealed, encode(document))
    assert json.loads(inner)["root"] == VECTOR.root.reveal().hex()


def test_an_empty_passphrase_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="empty"):
        write_identity(tmp_path / "identity.json", VECTOR, "", now=1)
    with pytest.raises(NotFound, match="identity create"):
        read_identity(tmp_path / "identity.json", "x")


def test_wrong_passphrases_cost_a_growing_delay(tmp_path: Path) -> None:
    clock = [1_000]
    throttle = UnlockThrottle(tmp_path / "failures.json", lambda: clock[0])
    throttle.failed()
    throttle.check()
    for _ in range(4):
        throttle.failed()
    with pytest.raises(Locked, match="try again in 8 s"):
        UnlockThrottle(tmp_path / "failures.json", lambda: clock[0]).check()
    clock[0] += 8
    throttle.check()
    throttle.succeeded()
    throttle.check()
