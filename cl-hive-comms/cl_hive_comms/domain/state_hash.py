"""The state hash: what a node looked like, comparable without being told (02 §9.3).

SHA-256 of `hive-state/v1` and five roots: policy (fees and limits per channel), balance, wallet, config,
plugins. Each root is the RFC 6962 head over the leaves in a fixed order; balance and wallet leaves are
HMACs under a key of the node, so that a published hash tells nobody an amount. Everything is computed from
results of CLN calls that the caller made (listpeerchannels, listfunds, listconfigs, plugin list).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import hmac_sha256, sha256
from hive_shared.receipts import merkle_root

TAG: Final = b"hive-state/v1"

Row = Mapping[str, Any]
_Hash = Callable[[bytes], bytes]

_FEES: Final = {
    "feebase": "fee_base_msat",
    "ppm": "fee_proportional_millionths",
    "htlcmin": "minimum_htlc_out_msat",
    "htlcmax": "maximum_htlc_out_msat",
}


class StateRoots(msgspec.Struct, frozen=True):
    """The five roots, 64 hex each, in the order in which they are hashed."""

    policy: str
    balance: str
    wallet: str
    config: str
    plugins: str

    @property
    def hash(self) -> str:
        """The state hash, 64 hex."""
        roots = (self.policy, self.balance, self.wallet, self.config, self.plugins)
        return sha256(TAG + b"".join(bytes.fromhex(root) for root in roots)).hex()

    def to_doc(self) -> dict[str, JsonValue]:
        """Hash and roots as `hive:monitor/v1 state_hash` answers them."""
        return {
            "state_hash": self.hash,
            "roots": {
                "policy": self.policy,
                "balance": self.balance,
                "wallet": self.wallet,
                "config": self.config,
                "plugins": self.plugins,
            },
        }


def policy_leaf(channel: Row) -> str:
    """Of one channel (64 hex): id, scid, state, base fee, ppm, smallest and largest HTLC."""
    return _leaf(
        {
            "id": channel.get("channel_id"),
            "scid": channel.get("short_channel_id"),
            "state": channel.get("state"),
            **{name: channel.get(source) for name, source in _FEES.items()},
        },
        sha256,
    )


def balance_leaf(channel: Row, key: bytes) -> str:
    """Of one channel (64 hex): id, our balance, total; keyed."""
    return _leaf(
        {
            "id": channel.get("channel_id"),
            "to_us": channel.get("to_us_msat"),
            "total": channel.get("total_msat"),
        },
        _keyed(key),
    )


def in_order(channels: Iterable[Row]) -> list[Row]:
    """Channels in the order of their leaves."""
    return sorted(channels, key=lambda row: (str(row.get("channel_id")), str(row.get("peer_id"))))


def channels_root(channels: Iterable[Row], leaf: Callable[[Row], str]) -> str:
    """The policy root (`leaf` policy_leaf) or the balance root (balance_leaf) over every channel."""
    return merkle_root([leaf(row) for row in in_order(channels)])


def wallet_root(outputs: Iterable[Row], key: bytes) -> str:
    """Over the wallet's outputs in outpoint order: outpoint, amount, whether reserved; keyed."""
    rows = sorted(outputs, key=lambda row: (str(row.get("txid")), int(row.get("output", 0))))
    return _root(
        (
            {
                "outpoint": f"{row.get('txid')}:{row.get('output')}",
                "amount": row.get("amount_msat"),
                "reserved": bool(row.get("reserved", False)),
            }
            for row in rows
        ),
        _keyed(key),
    )


def config_root(
    configs: Mapping[str, Row],
    *,
    bans: Iterable[str] = (),
    disabled: Iterable[str] = (),
    policy_version: int = 0,
) -> str:
    """Over the dynamic options, then banned peers, disabled channels and the version of our policy."""
    rows: list[Row] = [
        {
            "option": name,
            **{key: _plain(value) for key, value in row.items() if key.startswith(("value", "set"))},
        }
        for name, row in sorted(configs.items())
        if row.get("dynamic") is True
    ]
    rows.append({"bans": sorted(bans)})
    rows.append({"disabled": sorted(disabled)})
    rows.append({"policy_version": policy_version})
    return _root(rows, sha256)


def plugins_root(plugins: Iterable[Row]) -> str:
    """Over the node's plugins in name order: name and whether active."""
    rows = sorted(plugins, key=lambda row: str(row.get("name")))
    return _root(({"name": row.get("name"), "active": bool(row.get("active"))} for row in rows), sha256)


def _keyed(key: bytes) -> _Hash:
    return lambda data: hmac_sha256(key, data)


def _plain(value: object) -> object:
    # Amounts may exceed what a JSON number carries; as text they cannot.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _root(rows: Iterable[Row], hashed: _Hash) -> str:
    return merkle_root([_leaf(row, hashed) for row in rows])


def _leaf(row: Row, hashed: _Hash) -> str:
    present = {name: _plain(value) for name, value in row.items() if value is not None}
    return hashed(encode(present)).hex()
