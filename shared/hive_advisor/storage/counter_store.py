"""adv_counters: what commands use up of the guard's limits."""

from __future__ import annotations

from collections.abc import Mapping

from hive_shared.store import Tx

_KEPT_S = 7 * 86_400


class CounterStore:
    """Reservations. Methods join the caller's transaction."""

    def reserve(self, tx: Tx, command_id: str, client_id: str, uses: Mapping[str, int], now: int) -> None:
        """What a command uses, in place of what was reserved for it before; old rows go."""
        self.release(tx, command_id)
        tx.execute("DELETE FROM adv_counters WHERE at < ?", (now - _KEPT_S,))
        for name, amount in uses.items():
            tx.execute(
                "INSERT INTO adv_counters (command_id, client_id, name, amount, at) VALUES (?,?,?,?,?)",
                (command_id, client_id, name, amount, now),
            )

    def release(self, tx: Tx, command_id: str) -> None:
        """The command did not run: it used nothing."""
        tx.execute("DELETE FROM adv_counters WHERE command_id = ?", (command_id,))

    def settle(self, tx: Tx, command_id: str, name: str, amount: int) -> None:
        """What it really used, where it had reserved some."""
        tx.execute(
            "UPDATE adv_counters SET amount = ? WHERE command_id = ? AND name = ?", (amount, command_id, name)
        )

    def used(self, tx: Tx, client_id: str, since: int, without: str) -> dict[str, int]:
        """Used by commands to a client after `since`, by name, without one command's own."""
        rows = tx.execute(
            "SELECT name, sum(amount) AS n FROM adv_counters"
            " WHERE client_id = ? AND at > ? AND command_id <> ? GROUP BY name",
            (client_id, since, without),
        ).fetchall()
        return {str(row["name"]): int(row["n"]) for row in rows}
