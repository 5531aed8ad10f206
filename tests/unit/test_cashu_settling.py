"""What the wallet does with a mint's answer, without a mint (docs/protocol/03-escrow-and-payments.md §5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from cashu_mint import PaperMint
from hive_shared.cashu.journal import Op, OpBody, OpKind, OpState, OwnProof, PlannedOutput
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.outputs import IN_ONE_GO
from hive_shared.cashu.settling import Settler
from hive_shared.cashu.wire import BlindedMessage, BlindSignature, Proof

URL = "https://mint.example"


class World:
    """A mint on paper and a database that keeps nothing; `seen` is how often the loop turned until the mint
    had answered, and until the first write after that."""

    def __init__(self) -> None:
        self.paper = PaperMint()
        self.turns = 0
        self.seen: list[int] = []
        self.kept: list[OwnProof] = []

    def at(self, url: str) -> World:
        return self

    async def keysets(self, url: str) -> Mapping[str, Keyset]:
        return self.paper.keysets

    async def swap(
        self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]
    ) -> Sequence[BlindSignature]:
        answer = [self.paper.sign(each) for each in outputs]
        self.seen.append(self.turns)
        return answer

    async def write(self, body: Callable[[Any], Any]) -> Any:
        self.seen.append(self.turns)
        return body(None)

    def add_proofs(self, tx: object, url: str, proofs: Sequence[OwnProof], *_: object) -> int:
        self.kept += proofs
        return len(proofs)

    async def turn(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)

    def settler(self) -> Settler:
        rows = SimpleNamespace(
            move=lambda *_: None, settle=lambda *_: None, add_proofs=self.add_proofs, op=lambda *_: None
        )
        ends = SimpleNamespace(done=lambda tx, op, given: op, failed=lambda tx, op: None)
        nobody: Any = None
        self_: Any = self
        return Settler(self_, rows, self_, nobody, ends, now=lambda: 1, alert=nobody)  # type: ignore[arg-type]

    def op(self, count: int) -> Op:
        outputs = tuple(
            PlannedOutput(self.paper.output(1, f"{number:064x}"), "keep", number) for number in range(count)
        )
        return Op(
            *("op", "key", "content", "comms", OpKind.RECEIVE, URL, OpState.PREPARED, (), count, 0, 1, 1),
            body=OpBody((), outputs),
        )


async def test_a_great_answer_is_checked_beside_the_loop() -> None:
    world = World()
    ticker = asyncio.create_task(world.turn())
    try:
        for count, beside in ((IN_ONE_GO, False), (IN_ONE_GO + 1, True)):
            world.seen.clear()
            world.kept.clear()
            done = await world.settler().offer(world.op(count), [])
            assert done is not None and done.state is OpState.DONE
            assert [own.counter for own in world.kept] == list(range(count))
            answered, written, *_ = world.seen
            assert (written > answered) is beside, count
    finally:
        ticker.cancel()
