"""The approval PIN: rules, misses, the lock over restarts (11 §2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hive_advisor.identity import Locked, create_identity, read_identity, write_identity
from hive_advisor.pin import PinGuard, pin_verifier
from hive_shared.errors import Conflict, InvalidParams

PASSPHRASE = "correct horse battery staple"


class Clock:
    def __init__(self) -> None:
        self.at = 1_000_000

    def __call__(self) -> int:
        return self.at


@pytest.mark.parametrize("pin", ["", "12345", "x" * 129, PASSPHRASE])
def test_a_bad_pin_is_refused(pin: str) -> None:
    with pytest.raises(InvalidParams):
        pin_verifier(pin, PASSPHRASE)


def test_five_misses_lock_for_fifteen_minutes_over_restarts(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "pin-misses.json"
    verifier = pin_verifier("246810", PASSPHRASE)
    for _ in range(4):
        with pytest.raises(Locked, match="tries left"):
            PinGuard(file, clock).check("000000", verifier)
    with pytest.raises(Locked, match="locked for 900 s"):
        PinGuard(file, clock).check("000000", verifier)
    with pytest.raises(Locked, match="try again in 900 s"):
        PinGuard(file, clock).check("246810", verifier)
    clock.at += 899
    with pytest.raises(Locked, match="try again in 1 s"):
        PinGuard(file, clock).ready(verifier)
    clock.at += 1
    with pytest.raises(Locked, match="4 tries left"):
        PinGuard(file, clock).check("000000", verifier)
    PinGuard(file, clock).check("246810", verifier)
    assert not file.exists()


def test_a_try_counts_before_it_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, file = Clock(), tmp_path / "pin-misses.json"
    monkeypatch.setattr("hive_advisor.pin._derive", _killed)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            PinGuard(file, clock).check("000000", "scrypt:" + "00" * 16 + ":" + "00" * 32)
    with pytest.raises(Locked, match="try again"):
        PinGuard(file, clock).ready("scrypt:" + "00" * 16 + ":" + "00" * 32)


def _killed(_pin: str, _salt: bytes) -> bytes:
    raise KeyboardInterrupt


def test_a_damaged_count_does_not_open_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "pin-misses.json"
    file.write_text("{")
    with pytest.raises(Locked):
        PinGuard(file, Clock()).ready(pin_verifier("246810", PASSPHRASE))


def test_no_pin_no_vote(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="identity pin"):
        PinGuard(tmp_path / "pin-misses.json", Clock()).ready(None)


def test_the_verifier_lives_in_the_sealed_identity(tmp_path: Path) -> None:
    from msgspec.structs import replace

    path, made = tmp_path / "identity.json", create_identity()
    write_identity(path, made, PASSPHRASE, now=1)
    assert read_identity(path, PASSPHRASE).pin_verifier is None
    verifier = pin_verifier("246810", PASSPHRASE)
    write_identity(path, replace(made, pin_verifier=verifier), PASSPHRASE, now=1)
    assert read_identity(path, PASSPHRASE).pin_verifier == verifier
    assert verifier.split(":")[2] not in path.read_text()
    assert verifier not in repr(read_identity(path, PASSPHRASE))
