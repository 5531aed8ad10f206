"""Cashu as docs/protocol/03-escrow-and-payments.md has it: curve, keysets, secrets, tokens, terms, tickets.

No sockets, no SQL, no globals; clocks and randomness come in as arguments. The mint's own
package is never imported here (03 §3.3); the tests ask it what it thinks of the same numbers.
"""

from typing import Final

LIB_VERSION: Final = 1
"""Raised when two versions would build or accept other bytes; golden vectors hold it (03 §1)."""
