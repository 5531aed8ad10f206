"""The pyln side of the runtime: the manifest, the messages, and the hand-over to the runtime.

pyln's own dispatch binds parameters to Python arguments, which cannot carry a parameter named ``request`` or
``plugin`` and costs a signature inspection per call. Here a message goes, unbound, to one callable per kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyln.client.plugin import Method, MethodType, Option, Plugin, Request

from hive_shared.runtime_output import Output
from hive_shared.runtime_spec import MethodSpec, OptionSpec, object_of_pairs

__all__ = ["HandOverPlugin"]


_DECODER = json.JSONDecoder(object_pairs_hook=object_of_pairs)


def _never(**kwargs: Any) -> None:
    """Stands in pyln's tables; dispatch never reaches it."""


class _Declared(Method):  # type: ignore[misc]  # pyln is untyped
    """A method of the manifest whose usage comes from its declaration."""

    def __init__(self, spec: MethodSpec) -> None:
        super().__init__(spec.name, _never, MethodType.RPCMETHOD, False, spec.description)
        self.background = True
        self._usage = spec.usage

    def get_usage(self) -> str:
        return self._usage


class HandOverPlugin(Plugin):  # type: ignore[misc]  # pyln is untyped
    """pyln's plugin, reduced to decoding messages and handing them over.

    ``on_request(id, method, params)`` answers later through ``output``; ``on_event(topic, payload)`` has no
    answer. ``output`` is None while the program merely prints its usage.
    """

    def __init__(
        self,
        *,
        output: Output | None,
        on_request: Callable[[Any, str, Any], None],
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.output = output
        self._on_request = on_request
        self._on_event = on_event
        self._partial = b""
        self._over = False
        super().__init__(autopatch=False)

    def feed(self, data: bytes) -> bool:
        """Dispatch the messages that are complete now; False once lightningd has said ``shutdown``.

        Raises ``ValueError``, ``KeyError`` or ``TypeError`` when lightningd sends what is not JSON-RPC.
        """
        self._partial = self._multi_dispatch((self._partial + data).split(b"\n\n"))
        return not self._over

    def declare(
        self,
        options: Iterable[OptionSpec],
        methods: Iterable[MethodSpec],
        topics: Iterable[str],
        hooks: Mapping[str, list[int] | None],
        notifications: Iterable[str],
    ) -> None:
        """Fill pyln's tables, from which it makes the manifest. Raises ``ValueError`` for a name declared
        twice."""
        for option in options:
            if option.name in self.options:
                raise ValueError(f"option {option.name} is declared twice")
            # Straight into the table: add_option refuses string-conceal.
            self.options[option.name] = Option(
                name=option.name,
                # A deprecated option with a default makes CLN refuse the plugin where deprecated APIs are
                # off.
                default=None
                if option.kind == "flag" or option.multi or option.deprecated
                else option.default,
                description=option.description,
                opt_type=option.kind,
                value=None,
                multi=option.multi,
                deprecated=option.deprecated,
                dynamic=option.dynamic,
                on_change=None,
            )
        for method in methods:
            if method.name in self.methods:
                raise ValueError(f"method {method.name} is declared twice")
            self.methods[method.name] = _Declared(method)
        for topic in topics:
            self.add_subscription(topic, _never)
        for hook, filters in hooks.items():
            self.add_hook(hook, _never, background=True, filters=filters)
        for notification in notifications:
            self.add_notification_topic(notification)

    def _multi_dispatch(self, msgs: list[bytes]) -> bytes:
        # pyln's own, but for objects that repeat a name: those must not lose it silently.
        for payload in msgs[:-1]:
            request = self._parse_request(_DECODER.decode(payload.decode("utf-8", "surrogatepass")))
            if request.id is not None:
                self._dispatch_request(request)
            else:
                self._dispatch_notification(request)
        return msgs[-1]

    def _dispatch_request(self, request: Request) -> None:
        if request.method == "getmanifest":
            super()._dispatch_request(request)
        else:
            self._on_request(request.id, request.method, request.params)

    def _dispatch_notification(self, request: Request) -> None:
        if request.method == "shutdown":
            self._over = True
            return
        params = request.params
        if isinstance(params, dict):
            # v24.08 and later wrap the content in the topic's name; a custom notification of an older node in
            # payload.
            inner = params.get(request.method, params.get("payload", params))
            params = inner if isinstance(inner, dict) else params
            self._on_event(request.method, params)

    def _write_locked(self, obj: Any) -> None:
        if self.output is not None:
            self.output.send(obj)

    def log(self, message: str, level: str = "info") -> None:
        if self.output is not None:
            self.output.log(level, message)
