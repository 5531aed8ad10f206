"""The node of a command pipeline, in memory: channels, plugins, settings; it can fail and lose answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hive_shared import crypto
from hive_shared.cln import LOST, ClnError, ClnLost, ClnTimeout
from hive_shared.crypto import Secret

NOW = 1_770_000_000
HSM_KEY = Secret((7).to_bytes(32, "big"))


def node_id_of(secret: Secret) -> str:
    """The Lightning id of a secret key, as recovered from a signature."""
    recovered = crypto.cln_recover_message("who", crypto.cln_sign_message(secret, "who"))
    assert recovered is not None
    return recovered


NODE_ID = node_id_of(HSM_KEY)


class NodeFake:
    """Channels in memory. `fail` makes a call fail, `lose` lets it act and loses the answer."""

    def __init__(self, channels: int = 4) -> None:
        self.rows: list[dict[str, Any]] = [self._row(n) for n in range(1, channels + 1)]
        self.plugins: list[dict[str, Any]] = [
            {"name": "/usr/libexec/c-lightning/plugins/autoclean", "active": True, "dynamic": False}
        ]
        self.runs = 1
        """How often the node was started; `stop` is followed by a start at once."""
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.lose: set[str] = set()
        self.answers: dict[str, Callable[[Mapping[str, object]], dict[str, Any]]] = {}
        self.configs: dict[str, dict[str, Any]] = {
            "min-capacity-sat": {"value_int": 10_000, "source": "default", "dynamic": True},
            "cltv-delta": {"value_int": 34, "source": "default"},
            "alias": {"value_str": "SLICKERGOPHER", "source": "/srv/op/.lightning/config:3"},
            "rgb": {"value_str": "02aabb", "source": "default"},
            "announce-addr": {"values_str": ["203.0.113.7:9735"], "sources": ["cmdline"]},
            "always-use-proxy": {"value_bool": False, "source": "default"},
            "max-dust-htlc-exposure-msat": {"value_msat": 50_000_000, "source": "default"},
            "askrene-timeout": {
                "value_int": 10,
                "source": "default",
                "plugin": "/usr/x/cln-askrene",
                "dynamic": True,
            },
            "sling-max-hops": {
                "value_int": 6,
                "source": "default",
                "plugin": "/usr/x/sling",
                "dynamic": True,
            },
            "bitcoin-rpcpassword": {"value_str": "hunter2", "source": "cmdline"},
            "log-file": {"values_str": ["/srv/op/cln.log"], "sources": ["cmdline"]},
            "bitcoin-rpcconnect": {"value_str": "http://op:secret@10.0.0.1", "source": "cmdline"},
            "proxy": {},
        }

    @staticmethod
    def _row(n: int) -> dict[str, Any]:
        return {
            "peer_id": "02" + f"{n:064x}",
            "peer_connected": True,
            "state": "CHANNELD_NORMAL",
            "channel_id": f"{n:064x}",
            "short_channel_id": f"{100 + n}x1x0",
            "funding_txid": f"{n + 1000:064x}",
            "funding_outnum": 0,
            "to_us_msat": 500_000_000,
            "total_msat": 1_000_000_000,
            "fee_base_msat": 1_000,
            "fee_proportional_millionths": 100,
            "minimum_htlc_out_msat": 0,
            "maximum_htlc_out_msat": 990_000_000,
            "our_reserve_msat": 10_000_000,
            "htlcs": [],
        }

    def fees(self, scid: str) -> tuple[int, int]:
        row = next(row for row in self.rows if row["short_channel_id"] == scid)
        return row["fee_base_msat"], row["fee_proportional_millionths"]

    def limits(self, scid: str) -> tuple[int, int]:
        row = next(row for row in self.rows if row["short_channel_id"] == scid)
        return row["minimum_htlc_out_msat"], row["maximum_htlc_out_msat"]

    def _note(self, method: str) -> None:
        self.calls.append(method)
        if self.fail.get(method) == LOST:
            raise ClnLost(method, "the node closed the connection before it answered")
        if method in self.fail:
            raise ClnError(method, self.fail[method], "the node said no at /var/lib/private-dir")

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        self._note(method)
        if method in self.answers:
            return self.answers[method](params or {})
        if method == "setconfig":
            return self._setconfig(params or {})
        if method == "plugin":
            return self._plugin(params or {})
        if method == "graceful":
            return {}
        if method == "stop":
            self.runs += 1
            raise ClnLost(method, "the node closed the connection before it answered")
        answers: dict[str, dict[str, Any]] = {
            "listfunds": {
                "outputs": [{"txid": "aa" * 32, "output": 0, "amount_msat": 5_000, "status": "confirmed"}]
            },
            "listpeers": {"peers": [{"id": row["peer_id"], "connected": True} for row in self.rows]},
            "makesecret": {"secret": "5e" * 32},
            "staticbackup": {
                "scb": [f"{n:016x}{row['channel_id']}{row['peer_id']}" for n, row in enumerate(self.rows)]
            },
            "getemergencyrecoverdata": {
                "filedata": "aa",
                "backed_up_channel_ids": [row["channel_id"] for row in self.rows],
            },
            "getlog": {
                "created_at": f"{NOW + self.runs}.000000001",
                "log": [{"type": "INFO", "time": "1.5", "source": "lightningd", "log": "nsec=abc ok"}],
            },
        }
        if method not in answers:
            raise ClnError(method, -32601, "Unknown command")
        return answers[method]

    def _setconfig(self, params: Mapping[str, object]) -> dict[str, Any]:
        row = self.configs[str(params["config"])]
        if row.get("dynamic") is not True:
            raise ClnError("setconfig", -32602, "Not a dynamic option")
        row["value_int"] = int(str(params["val"]))
        if "setconfig" in self.lose:
            raise ClnTimeout("setconfig", 30)
        return {"config": {"config": params["config"], **row}}

    async def getinfo(self) -> dict[str, Any]:
        self._note("getinfo")
        return {"id": NODE_ID, "version": "v26.06", "blockheight": 100, "num_peers": 2, "network": "regtest"}

    async def listpeerchannels(
        self, peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]:
        self._note("listpeerchannels")
        return [
            dict(row)
            for row in self.rows
            if peer_id in (None, row["peer_id"]) and short_channel_id in (None, row["short_channel_id"])
        ]

    async def setchannel(
        self,
        id: str,
        feebase: int | None = None,
        feeppm: int | None = None,
        htlcmin: int | None = None,
        htlcmax: int | None = None,
        enforcedelay: int | None = None,
    ) -> list[dict[str, Any]]:
        self._note("setchannel")
        row = next(row for row in self.rows if id in (row["channel_id"], row["short_channel_id"]))
        if feebase is not None:
            row["fee_base_msat"] = feebase
        if feeppm is not None:
            row["fee_proportional_millionths"] = feeppm
        if htlcmin is not None:
            row["minimum_htlc_out_msat"] = htlcmin
        if htlcmax is not None:
            row["maximum_htlc_out_msat"] = htlcmax
        if "setchannel" in self.lose:
            raise ClnTimeout("setchannel", 30)
        return [dict(row)]

    async def plugin_list(self) -> list[dict[str, Any]]:
        self._note("plugin_list")
        return [dict(row) for row in self.plugins]

    async def plugin_start(self, path: str, *, timeout: float) -> dict[str, Any]:
        self._note("plugin_start")
        self.plugins.append({"name": path, "active": True, "dynamic": True})
        if "plugin_start" in self.lose:
            raise ClnTimeout("plugin", timeout)
        return {"command": "start", "plugins": self.plugins}

    def _plugin(self, params: Mapping[str, object]) -> dict[str, Any]:
        """`plugin stop` of a path."""
        left = [row for row in self.plugins if row["name"] != params["plugin"]]
        if params["subcommand"] != "stop" or len(left) == len(self.plugins):
            raise ClnError("plugin", -32602, f"Could not find plugin {params['plugin']}")
        self.plugins = left
        if "plugin" in self.lose:
            raise ClnTimeout("plugin", 30)
        return {"command": "stop", "result": "Successfully stopped it."}

    async def listconfigs(self, config: str | None = None) -> dict[str, Any]:
        if config is not None and config not in self.configs:
            raise ClnError("listconfigs", -32602, f"Unknown config option '{config}'")
        return {"configs": {n: dict(row) for n, row in self.configs.items() if row and config in (None, n)}}

    async def signmessage(self, text: str) -> str:
        return crypto.cln_sign_message(HSM_KEY, text)

    async def help_names(self) -> frozenset[str]:
        return frozenset({"listpeerchannels", "setchannel"})
