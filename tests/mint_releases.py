"""The mint in more than one release, for modules whose tests it decides (docs/protocol/03 §14): such a module
says `mint_url = each_release`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hive_devnet.mint import MintProcess, mint_environment, mint_installed

RELEASES = ("", "0.21")
"""The usual one, and the newest: skipped where `make setup-mints` did not put it."""


@pytest.fixture(name="mint_url", scope="module", params=RELEASES, ids=["usual", "0.21"])
def each_release(
    mint_url: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A mint of each; the usual one is that which every test shares."""
    release: str = request.param
    if not release:
        yield mint_url
        return
    if not mint_installed(release):
        pytest.skip(f"no mint in {mint_environment(release)}: `make setup-mints` puts it there")
    with asyncio.Runner() as runner:
        mint = runner.run(MintProcess.start(tmp_path_factory.mktemp("mint"), release=release))
        try:
            yield mint.url
        finally:
            runner.run(mint.stop())
