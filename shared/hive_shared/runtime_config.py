"""A plugin's options as one table, and what is in force as one immutable snapshot.

Every option of a sheet is declared from the first release on, so that a configuration file stays valid. What
nothing uses yet says so in its help text, and a status warns when an operator has set it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from hive_shared.runtime_spec import InitInfo, OptionSpec, option_from_node
from hive_shared.runtime_values import decimal_text

__all__ = ["Config", "OptionGroup", "OptionTable", "Rule"]

NOT_SERVED: Final = "Not served by this version: the value is checked and kept, nothing uses it yet."


class Rule(msgspec.Struct, frozen=True):
    """A condition over several options: ``broken(values)`` returns the sentence that refuses them, or
    None."""

    names: tuple[str, ...]
    broken: Callable[[Mapping[str, Any]], str | None]


class Config(msgspec.Struct, frozen=True):
    """The values in force, by full option name. ``refused``: options that kept their default, and why."""

    values: Mapping[str, Any]
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class OptionGroup:
    """Collects the options of one prefix; ``later`` declares what this version does not serve."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.specs: list[OptionSpec] = []
        self.served: set[str] = set()

    def add(
        self,
        name: str,
        default: str | int | bool | None,
        description: str,
        parse: Callable[[Any], Any] | None = None,
        *,
        kind: Literal["string", "int", "bool", "string-conceal"] | None = None,
        dynamic: bool = True,
        multi: bool = False,
        deprecated: bool = False,
        served: bool = True,
    ) -> None:
        """Declare ``<prefix><name>``; the kind follows from the default unless it is given."""
        if kind is None:
            kind = "bool" if isinstance(default, bool) else "int" if isinstance(default, int) else "string"
        full = self.prefix + name
        text = description if served else f"{description} {NOT_SERVED}"
        spec = OptionSpec(full, kind, default, text, dynamic, multi, deprecated)
        self.specs.append(spec if parse is None else replace(spec, parse=parse))
        if served:
            self.served.add(full)

    def later(
        self, name: str, default: str | int | bool | None, description: str, *args: Any, **more: Any
    ) -> None:
        """Declare an option that nothing uses yet."""
        self.add(name, default, description, *args, served=False, **more)


class OptionTable:
    """All options of a plugin with the rules across them. Raises ``ValueError`` if a default breaks one."""

    def __init__(self, groups: tuple[OptionGroup, ...], rules: tuple[Rule, ...] = ()) -> None:
        self.specs: tuple[OptionSpec, ...] = tuple(spec for group in groups for spec in group.specs)
        self._by_name = {spec.name: spec for spec in self.specs}
        self._served = frozenset(name for group in groups for name in group.served)
        self._rules = rules
        self._defaults = {spec.name: option_from_node(spec, None) for spec in self.specs}
        if broken := self._broken(self._defaults, None):
            raise ValueError(f"defaults: {broken[1]}")

    def snapshot(self, info: InitInfo) -> Config:
        """What is in force after ``init``: an option or a group of options that was refused keeps its
        default."""
        values, refused = dict(info.options), dict(info.invalid_options)
        while broken := self._broken(values, None):
            rule, sentence = broken
            for name in rule.names:
                values[name] = self._defaults[name]
                refused[name] = sentence
        return Config(MappingProxyType(values), MappingProxyType(refused))

    def changed(self, config: Config, name: str, value: Any) -> Config:
        """The snapshot after ``setconfig``. Raises ``ValueError`` when the new value breaks a rule."""
        values = {**config.values, name: value}
        if broken := self._broken(values, name):
            raise ValueError(broken[1])
        refused = {k: v for k, v in config.refused.items() if k != name}
        return Config(MappingProxyType(values), MappingProxyType(refused))

    def warnings(self, config: Config) -> list[str]:
        """Sentences for a status: refused values, and values that nothing uses."""
        found = [f"{name} keeps its default: {why}" for name, why in config.refused.items()]
        for name, value in config.values.items():
            if name not in self._served and value != self._defaults[name]:
                found.append(f"{name} is set, but not served by this version")
        return found

    def rows(self, config: Config) -> list[dict[str, Any]]:
        """Name, value, source and whether it has an effect, for every option; concealed values are not
        shown."""
        return [
            {
                "name": name,
                "value": "<concealed>"
                if self._by_name[name].kind == "string-conceal" and value
                else shown(value),
                "source": "default" if value == self._defaults[name] else "option",
                "served": name in self._served,
            }
            for name, value in config.values.items()
        ]

    def _broken(self, values: Mapping[str, Any], name: str | None) -> tuple[Rule, str] | None:
        for rule in self._rules:
            if (name is None or name in rule.names) and (sentence := rule.broken(values)) is not None:
                return rule, sentence
        return None


def shown(value: Any) -> Any:
    """A parsed option value as JSON."""
    if isinstance(value, Fraction):
        return decimal_text(value)
    if isinstance(value, tuple | list):
        return [shown(item) for item in value]
    return value
