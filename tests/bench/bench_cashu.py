"""Ecash on this machine's processor, beside one bare multiplication of a point (docs/protocol/03 §15)."""

from __future__ import annotations

from cashu_mint import PaperMint
from cashu_tickets import LOCK_SEED, PaperTicket, document, item
from coincurve import PublicKey
from figures import Figure, cpu_ms, percentile
from hive_shared.cashu.outputs import finish
from hive_shared.cashu.ticket import lock_outputs
from hive_shared.cashu.token import decode_token, encode_token

GOAL_OUTPUT_MS = 0.3
GOAL_UNBLIND_MS = 0.8
GOAL_TICKET_MS = 150
_PROOFS = 100
_BATCH = 512


def main(smoke: bool) -> list[Figure]:
    """Outputs built, answers unblinded, tickets checked: milliseconds of processor time, medians."""
    rounds = 3 if smoke else 30
    # Amounts of one bit: as many proofs as items.
    ticket = PaperTicket.make(document([item(number, 64) for number in range(_PROOFS)]))
    mint: PaperMint = next(iter(ticket.mints.values()))
    point = PublicKey(bytes.fromhex(mint.keyset.key(1)))
    scalar = b"\x5a" * 32
    bare = percentile(cpu_ms(lambda: point.multiply(scalar), 200), 0.5)
    # An item of 127 sat has seven proofs: what is done once per item then weighs as it does.
    seven = PaperTicket.make(document([item(0, 127)]))

    def build() -> object:
        return lock_outputs(seven.terms, 0, 0, mint.keyset, LOCK_SEED)

    outputs = lock_outputs(seven.terms, 0, 0, mint.keyset, LOCK_SEED)
    signatures = [mint.sign(each.message) for each in outputs]
    built = percentile(cpu_ms(build, rounds * 5), 0.5) / len(outputs)
    unblinded = percentile(cpu_ms(lambda: finish(outputs, signatures, mint.keysets), rounds * 5), 0.5) / len(
        outputs
    )
    checked = percentile(cpu_ms(ticket.check, rounds), 0.5)
    texts = [encode_token(token) for token in ticket.tokens()]
    read = percentile(cpu_ms(lambda: [decode_token(text) for text in texts], rounds), 0.5)
    figures = [
        Figure("ecash: one point multiplied, bare", bare, "ms"),
        Figure("ecash: build one blinded HTLC output", built, "ms", GOAL_OUTPUT_MS),
        Figure("ecash: unblind and check one signature", unblinded, "ms", GOAL_UNBLIND_MS),
        Figure(f"ecash: check a ticket of {_PROOFS} proofs", checked, "ms", GOAL_TICKET_MS),
        Figure(
            f"ecash: read the token of {_PROOFS} proofs", read, "ms", note=f"{len(texts[0]):,} characters"
        ),
    ]
    if not smoke:
        batch = PaperTicket.make(document([item(number, 64) for number in range(_BATCH)]))
        whole = percentile(cpu_ms(batch.check, 3), 0.5)
        figures.append(Figure(f"ecash: check a batch of {_BATCH} items", whole, "ms"))
    return figures
