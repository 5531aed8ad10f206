"""Fixtures of the contract tests: networks of either kind, and CLN's schemas."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from cln_contract import CheckedNode, SchemaBook, Trio, schema_directory
from hive_devnet.network import open_network
from hive_devnet.node import Network


def _kinds() -> list[Any]:
    reason = "no lightningd on PATH: only the embedded node is held to the contract"
    missing = pytest.mark.skipif(shutil.which("lightningd") is None, reason=reason)
    return [pytest.param("embedded"), pytest.param("lightningd", marks=missing)]


@pytest.fixture(scope="session")
def schemas() -> SchemaBook | None:
    directory = schema_directory()
    return SchemaBook(directory) if directory is not None else None


@pytest.fixture(scope="session")
def need_schemas(schemas: SchemaBook | None) -> SchemaBook:
    if schemas is None:
        pytest.skip("CLN's schemas are not here: set HIVE_CLN_SCHEMAS to lightning's doc/schemas")
    return schemas


@pytest.fixture(scope="module", params=_kinds())
def node_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(node_kind: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    opened = await open_network(tmp_path_factory.mktemp("net"), node_kind)
    try:
        yield opened
    finally:
        await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trio(network: Network, schemas: SchemaBook | None) -> Trio:
    alice, bob, carol = [await network.add_node(name) for name in ("alice", "bob", "carol")]
    await network.fund(alice, 10_000_000)
    await network.fund(bob, 10_000_000)
    scid = await network.open_channel(alice, bob, 1_000_000)
    far_scid = await network.open_channel(bob, carol, 2_000_000)
    checked = [CheckedNode(node, schemas) for node in (alice, bob, carol)]
    return Trio(network, *checked, scid=scid, far_scid=far_scid)
