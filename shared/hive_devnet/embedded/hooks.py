"""Hooks: plugins that are asked, one after the other, before the node goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive_devnet.embedded.errors import RpcError
from hive_devnet.embedded.logbook import LogBook
from hive_devnet.embedded.manifest import HOOK_FILTERS, HookRegistration, ManifestError
from hive_devnet.embedded.plugin import Plugin


@dataclass(frozen=True)
class _Link:
    plugin: Plugin
    registration: HookRegistration

    def wants(self, subject: str | int | None) -> bool:
        filters = self.registration.filters
        return filters is None or subject in filters


def path_matches(path: Path, name: str) -> bool:
    """Whether `name` means the plugin at `path`: a basename, or a path to the same file."""
    if "/" not in name:
        return path.name == name
    return str(path) == name or path == Path(name).resolve()


class HookChains:
    """The chains of one node."""

    def __init__(self, log: LogBook) -> None:
        self._log = log
        self._chains: dict[str, list[_Link]] = {}

    def register(self, plugin: Plugin, registration: HookRegistration) -> None:
        """Appends a plugin to a chain. Raises ManifestError on an unknown hook or a second time."""
        if registration.name not in HOOK_FILTERS:
            raise ManifestError(f"Unknown hook name {registration.name}")
        chain = self._chains.setdefault(registration.name, [])
        if any(link.plugin is plugin for link in chain):
            raise ManifestError(f"Registered for hook {registration.name} multiple times")
        chain.append(_Link(plugin, registration))

    def remove(self, plugin: Plugin) -> None:
        """Takes a plugin out of every chain."""
        for name, chain in self._chains.items():
            self._chains[name] = [link for link in chain if link.plugin is not plugin]

    def order(self) -> list[Plugin]:
        """Sorts every chain by before/after, then by load order; returns plugins that cannot be placed."""
        failed: list[Plugin] = []
        for name, chain in self._chains.items():
            ordered, stuck = self._sorted(name, chain)
            self._chains[name] = ordered + stuck
            failed += [link.plugin for link in stuck if link.plugin not in failed]
        return failed

    def _sorted(self, name: str, chain: list[_Link]) -> tuple[list[_Link], list[_Link]]:
        edges: set[tuple[int, int]] = set()
        for index, link in enumerate(chain):
            for other in self._named(name, chain, link, link.registration.before, "before"):
                edges.add((index, other))
            for other in self._named(name, chain, link, link.registration.after, "after"):
                edges.add((other, index))
        waiting = set(range(len(chain)))
        ordered: list[_Link] = []
        while True:
            free = [i for i in waiting if not any((j, i) in edges for j in waiting)]
            if not free:
                return ordered, [chain[i] for i in sorted(waiting)]
            best = min(free, key=lambda i: chain[i].plugin.index)
            waiting.remove(best)
            ordered.append(chain[best])

    def _named(
        self, hook: str, chain: list[_Link], link: _Link, names: Iterable[str], word: str
    ) -> list[int]:
        found = []
        for name in names:
            matching = [i for i, other in enumerate(chain) if path_matches(other.plugin.path, name)]
            if not matching:
                self._log.write("debug", link.plugin.log_source, f"hook {hook} {word} unknown plugin {name}")
            found += matching[:1]
        return found

    def anyone(self, name: str, subject: str | int | None = None) -> bool:
        """Whether a call of hook `name` would reach a plugin."""
        return any(link.wants(subject) for link in self._chains.get(name, ()))

    async def call(
        self, name: str, payload: dict[str, Any], subject: str | int | None = None, prefix: str | None = None
    ) -> list[tuple[Plugin, dict[str, Any]]]:
        """Asks the chain until a plugin does not say continue; returns the answers in order.

        `subject` is what filters are matched with. A plugin that dies while asked is skipped. An error
        answer counts as continue and is logged broken (lightningd would stop).
        """
        answers: list[tuple[Plugin, dict[str, Any]]] = []
        for link in list(self._chains.get(name, ())):
            if not link.wants(subject) or link.plugin.ended.is_set():
                continue
            try:
                reply = await link.plugin.request(name, payload, prefix)
            except RpcError:
                self._log.write("debug", "lightningd", f"Plugin died from {name} hook call")
                continue
            result = reply.get("result")
            if not isinstance(result, dict):
                self._log.write(
                    "broken",
                    "lightningd",
                    f"Plugin {link.plugin.name} for {name} returned non-result response {reply}",
                )
                continue
            answers.append((link.plugin, result))
            if result.get("result") != "continue" and name != "rpc_command":
                break
        return answers
