"""Restrictions of a rune for reading a node, or for reading and some acting, from what plugins declare.

Only exact names: a prefix would also open what only the operator may do, and what later versions add
(docs/protocol/08-client-and-plugins.md section 8.7, 11-advisor-kit.md section 12).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import MethodSpec

__all__ = ["RATE_PER_MINUTE", "restrictions"]

RATE_PER_MINUTE: Final = 60


def restrictions(
    specs: Iterable[MethodSpec], acting: Collection[str] = (), *, rate: int = RATE_PER_MINUTE
) -> list[list[str]]:
    """Restrictions for ``createrune``: every read of the methods, and the acts of those named in ``acting``.

    A method that reads with some values of a parameter only is held to them; the parameter must then be
    sent, by name: a rune cannot see what stands in its place when it is left out. Raises InvalidParams for
    a name in ``acting`` without a call of class A. What only the operator, a sibling or a remote sender may
    call is never granted.
    """
    methods: list[str] = []
    held: list[list[str]] = []
    without = set(acting)
    for spec in sorted(specs, key=lambda spec: spec.name):
        granted = {"R", "A"} if spec.name in acting else {"R"}
        if spec.name in acting and "A" in (spec.by.classes.values() if spec.by else (spec.klass,)):
            without.discard(spec.name)
        if spec.by is None:
            methods += [spec.name] if spec.klass in granted else []
            continue
        values = [value for value, klass in spec.by.classes.items() if klass in granted]
        if not values:
            continue
        methods.append(spec.name)
        if len(values) < len(spec.by.classes):
            # As CLN names parameters in runes: without punctuation.
            field = f"pname{spec.by.param.replace('_', '')}"
            held.append([f"method/{spec.name}", *(f"{field}={value}" for value in values)])
    if without:
        raise InvalidParams(f"{sorted(without)[0][:80]!a} has no call of class A that a rune may open")
    return [[f"method={name}" for name in methods], *held, [f"rate={rate}"]]
