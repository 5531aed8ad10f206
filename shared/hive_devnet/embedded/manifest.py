"""A plugin's `getmanifest` answer, read as strictly as lightningd reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hive_devnet.embedded.options import Option

NATIVE_TOPICS = frozenset(
    {
        "balance_snapshot",
        "block_added",
        "channel_open_failed",
        "channel_opened",
        "channel_state_changed",
        "coin_movement",
        "connect",
        "custommsg",
        "deprecated_oneshot",
        "disconnect",
        "forward_event",
        "invoice_creation",
        "invoice_payment",
        "log",
        "onionmessage_forward_fail",
        "openchannel_peer_sigs",
        "plugin_started",
        "plugin_stopped",
        "sendpay_failure",
        "sendpay_success",
        "shutdown",
        "warning",
    }
)
_T = TypeVar("_T")


class ManifestError(Exception):
    """The manifest breaks a rule; the plugin is killed with this text."""


@dataclass(frozen=True)
class Method:
    """An RPC method a plugin offers."""

    name: str
    usage: str
    deprecated: bool = False


@dataclass(frozen=True)
class HookRegistration:
    """A hook a plugin wants: order constraints, and filters (None: every event)."""

    name: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    filters: tuple[str | int, ...] | None = None


@dataclass(frozen=True)
class Manifest:
    """What a plugin declared."""

    disable: str | None = None
    dynamic: bool = False
    can_check: bool = False
    options: tuple[Option, ...] = ()
    methods: tuple[Method, ...] = ()
    subscriptions: tuple[str, ...] = ()
    hooks: tuple[HookRegistration, ...] = ()
    notifications: tuple[str, ...] = ()
    custom_messages: tuple[int, ...] = ()
    features: dict[str, str] = field(default_factory=dict)


def parse_manifest(result: Any, path: str) -> Manifest:
    """Reads the `result` of getmanifest. Raises ManifestError with lightningd's sentence."""
    if not isinstance(result, dict):
        raise ManifestError(f"Invalid/missing result tok in '{result}'")
    if "disable" in result:
        return Manifest(disable=str(result["disable"]))
    if result.get("nonnumericids", True) is not True:
        raise ManifestError("Plugin does not allow nonnumericids")
    return Manifest(
        dynamic=_flag(result, "getmanifest", "dynamic"),
        can_check=_flag(result, "getmanifest", "cancheck"),
        options=_list(result, "options", lambda item, _: _option(item, path), required=True),
        methods=_list(result, "rpcmethods", _method, required=True),
        subscriptions=_list(result, "subscriptions", _subscription),
        hooks=_list(result, "hooks", _hook),
        notifications=_list(result, "notifications", _notification),
        custom_messages=_list(result, "custommessages", _custom_message),
        features={key: str(bits) for key, bits in (result.get("featurebits") or {}).items()},
    )


def _list(
    result: dict[str, Any], key: str, parse: Callable[[Any, int], _T], required: bool = False
) -> tuple[_T, ...]:
    items = result.get(key)
    if items is None and not required:
        return ()
    if items is None:
        raise ManifestError(
            '"result.options" was not found in the manifest'
            if key == "options"
            else f'"result.{key}" missing'
        )
    if not isinstance(items, list):
        raise ManifestError(f'"result.{key}" is not an array')
    return tuple(parse(item, index) for index, item in enumerate(items))


def _flag(source: dict[str, Any], owner: str, key: str) -> bool:
    value = source.get(key, False)
    if not isinstance(value, bool):
        raise ManifestError(f'{owner}: invalid "{key}" field {value}')
    return value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _option(item: Any, path: str) -> Option:
    if not isinstance(item, dict) or not {"name", "type", "description"} <= item.keys():
        raise ManifestError('An option is missing either "name", "description" or "type"')
    name, kind = f"--{item['name']}", item["type"]
    multi, dynamic = _flag(item, name, "multi"), _flag(item, name, "dynamic")
    default = _text(item.get("default"))
    if kind == "flag":
        if default not in (None, "false"):
            raise ManifestError(f"{name} type flag default must be 'false' not {default}")
        default = None
        if multi:
            raise ManifestError("flag type cannot be multi")
    elif kind == "bool" and multi:
        raise ManifestError("bool type cannot be multi")
    elif kind not in ("string", "string-conceal", "int", "bool"):
        raise ManifestError('Only "string", "int", "bool", and "flag" options are supported')
    return Option(
        name=str(item["name"]),
        kind=kind,
        description=str(item["description"]),
        default=default,
        multi=multi,
        dynamic=dynamic,
        deprecated=_deprecated(item.get("deprecated")),
        plugin=path,
    )


def _deprecated(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    if not isinstance(value, list) or not 1 <= len(value) <= 2:
        raise ManifestError(f'"deprecated" must be an array of 1 or 2 elements, not {value}')
    return True


def _method(item: Any, _index: int) -> Method:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ManifestError(f'rpcmethod does not have a string "name": {item}')
    if "usage" not in item:
        raise ManifestError('"usage" not provided by plugin')
    if not isinstance(item["usage"], str):
        raise ManifestError(f'"usage" is not a string: {item}')
    return Method(item["name"], item["usage"], _deprecated(item.get("deprecated")))


def _subscription(item: Any, index: int) -> str:
    if not isinstance(item, str):
        raise ManifestError(f"result.subscriptions[{index}] is not a string: '{item}'")
    return item


def _hook(item: Any, _index: int) -> HookRegistration:
    if not isinstance(item, dict):
        return HookRegistration(str(item))
    if "name" not in item:
        raise ManifestError(f"no name in hook obj {item}")
    filters = item.get("filters")
    return HookRegistration(
        str(item["name"]),
        tuple(map(str, item.get("before") or ())),
        tuple(map(str, item.get("after") or ())),
        None if filters is None else _filters(str(item["name"]), filters),
    )


HOOK_FILTERS = {
    "custommsg": int,
    "rpc_command": str,
    "peer_connected": None,
    "openchannel": None,
    "openchannel2": None,
    "htlc_accepted": None,
    "invoice_payment": None,
    "commitment_revocation": None,
    "db_write": None,
    "recover": None,
    "openchannel2_changed": None,
    "openchannel2_sign": None,
    "rbf_channel": None,
    "onion_message_recv": None,
    "onion_message_recv_secret": None,
}


def _filters(name: str, filters: Any) -> tuple[str | int, ...]:
    kind = HOOK_FILTERS.get(name)
    if name in HOOK_FILTERS and kind is None:
        raise ManifestError(f"Hook {name} does not allow filters")
    if not isinstance(filters, list):
        raise ManifestError("filters token must be an array")
    wording = "strings" if kind is str else "unsigned integers"
    for item in filters:
        if kind is not None and (not isinstance(item, kind) or isinstance(item, bool)):
            raise ManifestError(f"filters must be array of {wording}, not '{item}'")
    return tuple(filters)


def _notification(item: Any, index: int) -> str:
    if not isinstance(item, dict):
        raise ManifestError(f'"result.notifications[{index}]" is not an object')
    if not isinstance(item.get("method"), str):
        raise ManifestError(f'"result.notifications[{index}].name" missing or not a string.')
    if item["method"] in NATIVE_TOPICS:
        raise ManifestError(
            f'plugin attempted to register a native notification topic "{item["method"]}",'
            " these may however only be sent by lightningd"
        )
    return str(item["method"])


def _custom_message(item: Any, index: int) -> int:
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < 1 << 16:
        raise ManifestError(f"custommessages {index} not a u16: '{item}'")
    return item
