"""Reading a Bitcoin transaction: what it spends, what it pays, what it weighs. No I/O."""

from __future__ import annotations

import msgspec


class BitcoinTx(msgspec.Struct, frozen=True):
    """Outpoints `txid:n` spent, amounts paid in sat, weight units."""

    inputs: tuple[str, ...]
    outputs_sat: tuple[int, ...]
    weight: int


class Reader:
    """Bytes read from the front, `at` so many so far. Raises ValueError where they end early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        piece = self._data[self.at : self.at + size]
        if len(piece) != size:
            raise ValueError("the data ends early")
        self.at += size
        return piece

    def number(self, size: int) -> int:
        """The next bytes as a number, little-endian."""
        return int.from_bytes(self.take(size), "little")

    def count(self) -> int:
        """The next CompactSize."""
        first = self.number(1)
        return first if first < 0xFD else self.number({0xFD: 2, 0xFE: 4, 0xFF: 8}[first])


def parse_tx(raw_hex: str) -> BitcoinTx:
    """A serialised transaction, with or without witnesses. Raises ValueError when it is none."""
    raw = bytes.fromhex(raw_hex)
    reader = Reader(raw)
    reader.take(4)
    segwit = raw[4:6] == b"\x00\x01"
    if segwit:
        reader.take(2)
    inputs = []
    for _ in range(reader.count()):
        txid = reader.take(32)[::-1].hex()
        inputs.append(f"{txid}:{reader.number(4)}")
        reader.take(reader.count())
        reader.take(4)
    outputs = []
    for _ in range(reader.count()):
        outputs.append(reader.number(8))
        reader.take(reader.count())
    # Marker, flag and witnesses weigh one unit a byte, all else four.
    stripped = reader.at + 4 - (2 if segwit else 0)
    if segwit:
        for _ in inputs:
            for _ in range(reader.count()):
                reader.take(reader.count())
    reader.take(4)
    if reader.at != len(raw):
        raise ValueError("bytes after the transaction")
    return BitcoinTx(tuple(inputs), tuple(outputs), 3 * stripped + len(raw))
