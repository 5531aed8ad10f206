"""The table of the plugins' methods that the kit ships, and the class of a call
(docs/protocol/11-advisor-kit.md §11.3). `make reference` writes the table from the plugins' declarations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from hive_shared.runtime_spec import ClassBy, Klass, MethodSpec, Param

from hive_advisor.domain.node_reads import NODE_READS


class Method(msgspec.Struct, frozen=True):
    """One method as its declaration has it. ``plugin`` serves it; ``lightningd``: CLN does."""

    plugin: str
    spec: MethodSpec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def klass(self) -> Klass:
        """The strictest class of its calls."""
        return self.spec.klass

    @property
    def selector(self) -> str | None:
        """The parameter that decides the class, where there is one."""
        return None if self.spec.by is None else self.spec.by.param

    @property
    def classes(self) -> Mapping[str, Klass]:
        """The class of each value of ``selector``; empty without one."""
        return {} if self.spec.by is None else dict(self.spec.by.classes)

    @property
    def tool(self) -> str:
        """Its name as a tool: ``hive_x_y``, or that of a read of the node itself."""
        read = NODE_READS.get(self.name)
        return self.name.replace("-", "_") if read is None else read.tool

    @property
    def present_classes(self) -> frozenset[Klass]:
        """Every class that some call of the method has."""
        return frozenset(self.classes.values() or [self.klass])

    def open_classes(self, allowed: Collection[str]) -> frozenset[Klass]:
        """The classes of its calls that are open to a program when ``allowed`` is the operator's list."""
        granted: tuple[Klass, ...] = ("R", "A") if self.name in allowed else ("R",)
        return self.present_classes & frozenset(granted)

    def class_of(self, arguments: Mapping[str, object]) -> Klass:
        """The class of a call as somebody wants to make it: the declared default counts where the deciding
        value is not given, and a value that does not exist counts as the strictest."""
        return self.classes.get(word(self.selected(arguments)), self.klass)

    def selected(self, arguments: Mapping[str, object]) -> object:
        """The value that decides the class, or the declared default of it; None without ``selector``."""
        if self.selector is None:
            return None
        given = arguments.get(self.selector)
        default = next(param.default for param in self.spec.params if param.name == self.selector)
        return default if given is None else given


def word(value: object) -> str:
    """A deciding value as declarations write it: ``true`` and ``false`` for a truth value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def method_table() -> Mapping[str, Method]:
    """Every method of the three plugins, and CLN's that stand behind reads of the node, by name."""
    text = (files("hive_advisor") / "methods.json").read_bytes()
    plugins = [Method(row["plugin"], _spec(row)) for row in msgspec.json.decode(text)]
    own = [Method("lightningd", read.spec) for read in NODE_READS.values()]
    return {method.name: method for method in (*own, *plugins)}


@cache
def tool_table() -> Mapping[str, Method]:
    """The same by the name of the tool."""
    return {method.tool: method for method in method_table().values()}


def _spec(row: dict[str, Any]) -> MethodSpec:
    params = tuple(Param(**{**field, "choices": tuple(field.get("choices", ()))}) for field in row["params"])
    by = ClassBy(**row["by"]) if "by" in row else None
    return MethodSpec(row["name"], row["klass"], params, _elsewhere, row["description"], by)


async def _elsewhere(params: dict[str, Any]) -> dict[str, Any]:
    """Stands for the handler, which is in the plugin; never reached."""
    raise AssertionError("a declaration of the kit is not called")
