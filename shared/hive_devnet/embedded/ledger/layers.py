"""What askrene is told of the network: layers of updates, limits and nodes to leave out.

Persistent layers are rows, the others end with their node.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from hive_devnet.embedded.ledger.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS askrene_layer (
    node_id TEXT NOT NULL, name TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (node_id, name));
"""


@dataclass
class Layer:
    """One layer. `updates` replace what gossip says of a directed channel (`scid/direction`), `limits` are
    its (minimum, maximum) msat and when that was learned."""

    name: str
    persistent: bool
    disabled_nodes: list[str] = field(default_factory=list)
    updates: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: dict[str, dict[str, int]] = field(default_factory=dict)


class Layers:
    """The layers of one node."""

    def __init__(self, database: Database, node_id: str) -> None:
        self._db, self._node_id = database, node_id
        rows = database.rows("SELECT doc FROM askrene_layer WHERE node_id = ?", (node_id,))
        found = [Layer(**json.loads(row["doc"])) for row in rows]
        self._layers = {layer.name: layer for layer in found}

    def get(self, name: str) -> Layer | None:
        """The layer of that name."""
        return self._layers.get(name)

    def all(self) -> list[Layer]:
        """Every layer, oldest first."""
        return list(self._layers.values())

    def keep(self, layer: Layer) -> None:
        """A new or changed layer."""
        self._layers[layer.name] = layer
        if layer.persistent:
            doc = json.dumps(asdict(layer))
            self._db.run(
                "INSERT OR REPLACE INTO askrene_layer VALUES (?, ?, ?)", (self._node_id, layer.name, doc)
            )

    def drop(self, layer: Layer) -> None:
        """Forgets a layer."""
        del self._layers[layer.name]
        self._db.run("DELETE FROM askrene_layer WHERE node_id = ? AND name = ?", (self._node_id, layer.name))
