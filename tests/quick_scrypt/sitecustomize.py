"""Passphrases and PINs of tests cost little to try, for who makes a file and for who opens it.

Python runs a file of this name at its start where its directory is on PYTHONPATH, which tests/conftest.py
puts there: it holds for the tests, for every `hive-advisor` they type and for the plugins. At 2^17 it takes
half a second of a processor, at every command of a kit that unlocks; the files still name 2^17.
That the product asks for 2^17 has tests of its own (test_advisor_identity, test_sealed_file).
"""

import hashlib
import sys
import types

N = 2**10
really = hashlib.scrypt


def scrypt(
    password: bytes, *, salt: bytes, n: int, r: int, p: int, maxmem: int = 0, dklen: int = 64
) -> bytes:
    """`hashlib.scrypt` that does not take its time."""
    return really(password, salt=salt, n=min(n, N), r=r, p=p, maxmem=maxmem, dklen=dklen)


class Scrypt:
    """The same under the name of the library `cryptography`."""

    def __init__(self, *, salt: bytes, length: int, n: int, r: int, p: int) -> None:
        self._salt, self._length, self._cost = salt, length, {"n": n, "r": r, "p": p}

    def derive(self, key_material: bytes) -> bytes:
        return scrypt(key_material, salt=self._salt, dklen=self._length, **self._cost)


hashlib.scrypt = scrypt
# In the place of its module: nothing of that library is loaded by those who ask for no key.
module = types.ModuleType("cryptography.hazmat.primitives.kdf.scrypt")
module.Scrypt, module.really = Scrypt, really
sys.modules[module.__name__] = module
