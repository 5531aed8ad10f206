"""The node's refusals as ours: symbol, method and code, never the raw text (02 §7.2)."""

from __future__ import annotations

from hive_shared.cln import ClnError, ClnTimeout
from hive_shared.errors import HiveError, from_symbol


def node_error(error: ClnError) -> HiveError:
    """`timeout` without an answer, `unsupported_action` for a missing command, else `node_error`."""
    if isinstance(error, ClnTimeout):
        return from_symbol("timeout", f"the node did not answer {error.method} in time", rpc=error.method)
    if error.code == -32601:
        return from_symbol("unsupported_action", f"this node does not offer {error.method}", rpc=error.method)
    return from_symbol(
        "node_error",
        f"the node refused {error.method} with code {error.code}",
        rpc=error.method,
        code=error.code,
    )
