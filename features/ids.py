"""Ids are derived, never drawn: the same event gets the same id wherever and whenever it is processed.

The mixer is splitmix64's finaliser (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), vectorised.
Ids are non-negative int64: the top bit is dropped, so that every store and language reads them alike.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_MASK = (1 << 64) - 1
_SEED = 0x243F6A8885A308D3
_GOLDEN = 0x9E3779B97F4A7C15


def _finalise(x: U64) -> U64:
    """Of numbers that may overflow: the caller says so to numpy."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _finalise_int(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def _mix_ints(parts: Sequence[int]) -> int:
    if not parts:
        return _SEED
    state = _first(parts[0])
    for part in parts[1:]:  # numpy takes ten times as long for one number
        state = _finalise_int(((state ^ (part & _MASK)) + _GOLDEN) & _MASK)
    return state


@lru_cache(maxsize=64)
def _first(part: int) -> int:
    """The state after the first part, which is mostly a salt or the request's id: asked for again at once."""
    return _finalise_int(((_SEED ^ (part & _MASK)) + _GOLDEN) & _MASK)


def mix(*parts: Any) -> U64:
    """A 64-bit hash of whole numbers, element by element; scalars and int arrays broadcast against each other.

    `mix(a, b)` differs from `mix(b, a)`.  Returns uint64 of the broadcast shape (0-d for scalars only).
    """
    rest = 0
    while rest < len(parts) and isinstance(parts[rest], int):
        rest += 1
    state: Any = np.uint64(_mix_ints(parts[:rest]))
    with np.errstate(over="ignore"):
        for part in parts[rest:]:
            value = np.uint64(part & _MASK) if isinstance(part, int) else np.asarray(part).astype(np.uint64)
            state = _finalise((state ^ value) + np.uint64(_GOLDEN))
    return state


def uniform(*parts: Any) -> npt.NDArray[np.float64]:
    """Hashed luck in [0, 1): `mix` of the parts as float64 with 53 random bits."""
    return (mix(*parts) >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def mix_one(*parts: int) -> int:
    """`mix` of plain whole numbers, without numpy: for what every request needs once."""
    return _mix_ints(parts)


def uniform_one(*parts: int) -> float:
    """`uniform` of plain whole numbers."""
    return (_mix_ints(parts) >> 11) * (1.0 / (1 << 53))


def derived_id_one(*parts: int) -> int:
    """`derived_id` of plain whole numbers."""
    return _mix_ints(parts) >> 1


def derived_id(*parts: Any) -> I64:
    """A non-negative int64 id made of whole numbers: for example an impression's is `derived_id(request_id, slot)`."""
    return (mix(*parts) >> np.uint64(1)).astype(np.int64)


def click_id(impression_id: Any) -> I64:
    """The id of the click on an impression, where whoever saw it gave none: an ad that is shown once is clicked once."""
    return derived_id(impression_id, 1)


def text_id(text: str) -> int:
    """A non-negative int64 id of a text (BLAKE2b, 8 bytes): for logs whose ids are strings, and for hash salts."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
