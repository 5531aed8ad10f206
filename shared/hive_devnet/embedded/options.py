"""lightningd's options: the built-in ones, those plugins declare, and where each value came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hive_devnet.embedded.errors import NodeStartError
from hive_devnet.embedded.params import parse_msat

_NAME = re.compile(r"^[0-9a-z_-]+$")
_TRUE = ("1", "true", "y", "yes", "on")
_FALSE = ("0", "false", "n", "no", "off")
_NUMBER_FORMAT = re.compile(r"^[+-]?[0-9]+[kMGTPE]?$")
_SUFFIXES = {"k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4, "P": 1000**5, "E": 1000**6}

CMDLINE = "cmdline"
PLUGIN_START = "pluginstart"
TRANSIENT = "setconfig transient"


class OptionError(Exception):
    """An option is declared or set in a way lightningd refuses."""


@dataclass
class Option:
    """One option: `kind` is string, string-conceal, int, bool, flag or msat, `plugin` its owner's path."""

    name: str
    kind: str
    description: str = ""
    default: str | None = None
    multi: bool = False
    dynamic: bool = False
    deprecated: bool = False
    plugin: str | None = None

    def check(self, argument: str | None) -> None:
        """Raises OptionError unless `argument` (None: none given) is valid."""
        if self.kind == "flag":
            if argument is not None:
                raise OptionError("doesn't allow an argument")
        elif argument is None:
            raise OptionError("requires an argument")
        elif self.kind == "int":
            parse_int(argument)
        elif self.kind == "bool":
            parse_bool(argument)
        elif self.kind == "msat" and parse_msat(argument) is None:
            raise OptionError("Unable to parse millisatoshi amount")

    def value(self, argument: str | None) -> Any:
        """`argument` as the JSON value plugins and listconfigs see."""
        if self.kind == "flag":
            return True
        text = argument or ""
        if self.kind == "int":
            return parse_int(text)
        if self.kind == "msat":
            return parse_msat(text)
        return parse_bool(text) if self.kind == "bool" else text


@dataclass(frozen=True)
class Setting:
    """One occurrence of an option in a source; `file` and `line` (1-based) when it stands in a file."""

    name: str
    argument: str | None
    source: str
    file: Path | None = None
    line: int = 0

    @property
    def text(self) -> str:
        """The setting as a line of a config file."""
        return self.name if self.argument is None else f"{self.name}={self.argument}"

    @property
    def shown_source(self) -> str:
        """The source as listconfigs names it."""
        return self.source if self.file is None else f"{self.file}:{self.line}"


def parse_int(text: str) -> int:
    """An integer as lightningd's option parser reads it. Raises OptionError."""
    if not _NUMBER_FORMAT.match(text):
        raise OptionError(f"'{text}' is not a number")
    number = int(text[:-1]) * _SUFFIXES[text[-1]] if text[-1] in _SUFFIXES else int(text)
    if not -(1 << 63) <= number < 1 << 63:
        raise OptionError(f"'{text}' is out of range")
    return number


def parse_bool(text: str) -> bool:
    """A boolean as lightningd's option parser reads it. Raises OptionError."""
    lowered = text.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise OptionError(f"Invalid argument '{text}'")


_BUILTIN = (
    Option("network", "string", default="regtest"),
    Option("lightning-dir", "string"),
    Option("conf", "string"),
    Option("alias", "string"),
    Option("rgb", "string"),
    Option("developer", "flag"),
    Option("offline", "flag"),
    # Not lightningd's: the version this node claims to have, to see what plugins make of it.
    Option("dev-claim-version", "string"),
    Option("daemon", "flag"),
    Option("rpc-file", "string", default="lightning-rpc"),
    Option("rpc-file-mode", "string", default="0600"),
    Option("log-level", "string", default="info"),
    Option("log-prefix", "string", default=""),
    Option("log-file", "string", multi=True),
    Option("log-timestamps", "bool", default="true"),
    Option("plugin", "string", multi=True),
    Option("plugin-dir", "string", multi=True),
    Option("important-plugin", "string", multi=True),
    Option("disable-plugin", "string", multi=True),
    Option("clear-plugins", "flag"),
    Option("allow-deprecated-apis", "bool", default="true"),
    Option("i-promise-to-fix-broken-api-user", "string", multi=True),
    Option("autolisten", "bool", default="true"),
    Option("addr", "string", multi=True),
    Option("bind-addr", "string", multi=True),
    Option("announce-addr", "string", multi=True),
    Option("always-use-proxy", "bool", default="false"),
    Option("proxy", "string"),
    Option("disable-dns", "flag"),
    Option("fee-base", "int", default="1"),
    Option("fee-per-satoshi", "int", default="10"),
    Option("htlc-minimum-msat", "msat", default="0"),
    Option("htlc-maximum-msat", "msat"),
    Option("cltv-delta", "int", default="6"),
    Option("cltv-final", "int", default="10"),
    Option("max-concurrent-htlcs", "int", default="483"),
    Option("max-dust-htlc-exposure-msat", "msat", default="50000000"),
    Option("min-capacity-sat", "int", default="10000", dynamic=True),
    Option("min-emergency-msat", "msat", default="25000000"),
    Option("funding-confirms", "int", default="1"),
    Option("commit-time", "int", default="10"),
    Option("watchtime-blocks", "int", default="5"),
    Option("max-locktime-blocks", "int", default="2016"),
    Option("ignore-fee-limits", "bool", default="true"),
    Option("announce-addr-dns", "bool", default="false"),
    Option("wallet", "string"),
    Option("database-upgrade", "bool"),
)


@dataclass
class OptionTable:
    """Every option a node knows, and every setting from its config files and command line."""

    options: dict[str, Option] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)

    def __post_init__(self) -> None:
        for option in _BUILTIN:
            self.options[option.name] = Option(**vars(option))

    def load_file(self, path: Path) -> None:
        """Adds the settings of a config file and of the files it includes; a missing file is empty."""
        if not path.exists():
            return
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if text.startswith("include "):
                self.load_file(path.parent / text.removeprefix("include ").strip())
                continue
            name, separator, argument = text.partition("=")
            self.settings.append(Setting(name, argument if separator else None, "file", path, number))

    def load_cmdline(self, given: Mapping[str, object]) -> None:
        """Adds settings: lists repeat an option, True or None sets a flag, False leaves it out."""
        for name, value in given.items():
            for item in value if isinstance(value, list | tuple) else [value]:
                if item is False:
                    continue
                argument = None if item is True or item is None else str(item)
                self.settings.append(Setting(name, argument, CMDLINE))

    def declare(self, option: Option) -> None:
        """Adds a plugin's option. Raises OptionError on a bad or taken name or a bad default."""
        if not _NAME.match(option.name):
            raise OptionError('Option "name" must be lowercase alphanumeric, plus _ or -\'')
        if option.name in self.options:
            raise OptionError(f'Option "{option.name}" already registered')
        if option.default is not None:
            try:
                self._check_deprecated(option)
                option.check(option.default)
            except OptionError as error:
                raise OptionError(f"Invalid default '{option.default}': {error}") from error
        self.options[option.name] = option

    def _check_deprecated(self, option: Option) -> None:
        if option.deprecated and not self.get("allow-deprecated-apis"):
            raise OptionError("deprecated option (will be removed!)")

    def forget(self, names: Iterable[str]) -> None:
        """Removes a stopped plugin's options and what `plugin start` set for them."""
        gone = set(names)
        for name in gone:
            self.options.pop(name, None)
        self.settings = [s for s in self.settings if s.name not in gone or s.source != PLUGIN_START]

    def check_settings(self) -> None:
        """Raises NodeStartError on a setting that no option or no value rule accepts."""
        for setting in self.settings:
            option = self.options.get(setting.name)
            if option is None:
                raise NodeStartError(f"--{setting.name}: unrecognized option")
            try:
                self._check_deprecated(option)
                option.check(self.effective_argument(option, setting))
            except OptionError as error:
                raise NodeStartError(f"--{setting.text}: {error}") from error

    @staticmethod
    def effective_argument(option: Option, setting: Setting) -> str | None:
        """The argument of a setting; a bare bool from the command-line mapping means true."""
        if option.kind == "bool" and setting.argument is None and setting.source == CMDLINE:
            return "true"
        return setting.argument

    def current(self, name: str) -> list[Setting]:
        """Settings in force: the last one, or for multi options all of the strongest source's.

        A transient `setconfig` beats everything; later sources beat earlier ones.
        """
        option = self.options[name]
        found = [setting for setting in self.settings if setting.name == name]
        if not option.multi:
            return found[-1:]
        transient = [setting for setting in found if setting.source == TRANSIENT]
        return transient or found

    def get(self, name: str) -> Any:
        """The value in force: a list for multi options, None when unset and without default."""
        option = self.options[name]
        settings = self.current(name)
        if option.multi:
            return [option.value(setting.argument) for setting in settings]
        if settings:
            return option.value(self.effective_argument(option, settings[-1]))
        if option.kind == "flag":
            return False
        return None if option.default is None else option.value(option.default)

    def for_plugin(self, names: Sequence[str]) -> dict[str, Any]:
        """The `options` object of a plugin's init: set values and defaults."""
        values: dict[str, Any] = {}
        for name in names:
            option = self.options[name]
            if not self.current(name) and option.default is None:
                continue
            value = self.get(name)
            if option.multi and not self.current(name):
                value = [option.value(option.default)]
            values[name] = value
        return values
