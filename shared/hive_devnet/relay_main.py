"""The process behind `RelayProcess`: nostr-sdk's LocalRelay until stdin closes.

Own process, so that it can be killed and frozen like a real relay, and so that it goes away when the process
that started it does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import nostr_sdk


async def serve(port: int, nip42: bool, min_pow: int) -> None:
    """Run the relay on loopback and print its URL once it answers; returns when stdin is closed."""
    # The library's default of 60 notes a minute would refuse what a test sends in a second.
    limit = nostr_sdk.RateLimit(max_reqs=10_000, notes_per_minute=10_000_000)
    builder = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").port(port).rate_limit(limit)
    if nip42:
        mode = nostr_sdk.LocalRelayBuilderNip42Mode.BOTH
        builder = builder.nip42(nostr_sdk.LocalRelayBuilderNip42(mode=mode))
    if min_pow:
        builder = builder.min_pow(min_pow)
    relay = builder.build()
    await relay.run()
    print(await relay.url(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    relay.shutdown()


def main() -> None:
    """Parse the arguments RelayProcess passes and serve."""
    parser = argparse.ArgumentParser(description="Nostr relay of the development network")
    parser.add_argument("port", type=int)
    parser.add_argument("--nip42", action="store_true")
    parser.add_argument("--min-pow", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.nip42, arguments.min_pow))


if __name__ == "__main__":
    main()
