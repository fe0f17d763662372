"""A grammar that is not compiled from anything: what it allows is a hash of its key, the place and the token before.

About every third place leaves no choice, so that there are forced runs of every length, at the beginning too. It ends after a
number of tokens that the key decides, and some keys let it go on after that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.sampling.matcher import Mask

NUM_CHOICES = 3
MOST_TOKENS = 14


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def allowed_ids(key: str, output: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    """What may follow `output`; nothing where the grammar is complete. Stop tokens are not among them."""
    if len(output) >= _hash(key, "length") % MOST_TOKENS + 1:
        return ()
    seed = (key, len(output), output[-1] if output else -1)
    num_choices = 1 if _hash(*seed, "forced") % 5 < 3 else NUM_CHOICES
    return tuple(sorted({_hash(*seed, index) % vocab_size for index in range(num_choices)}))


@dataclass
class ScriptedMatcher:
    """Implements `runtime.sampling.matcher.Matcher`."""

    key: str
    vocab_size: int
    stop_ids: frozenset[int]
    output: list[int] = field(default_factory=list)
    has_stopped: bool = False

    def accept(self, token_id: int) -> bool:
        if self.is_complete:
            self.has_stopped = self.has_stopped or token_id in self.stop_ids
            return self.has_stopped
        if token_id not in allowed_ids(self.key, self.output, self.vocab_size):
            return False
        self.output.append(token_id)
        return True

    def fill_mask(self, mask: Mask) -> None:
        allowed = allowed_ids(self.key, self.output, self.vocab_size) or tuple(self.stop_ids)
        bits = np.zeros(len(mask) * 32, dtype=np.uint8)
        bits[list(allowed)] = 1
        mask[:] = np.packbits(bits, bitorder="little").view("<i4")

    def forced_ids(self) -> tuple[int, ...]:
        return tuple(self._forced())

    def _forced(self) -> Iterator[int]:
        output = list(self.output)
        while len(only := allowed_ids(self.key, output, self.vocab_size)) == 1:
            output.append(only[0])
            yield only[0]

    @property
    def is_complete(self) -> bool:
        return not allowed_ids(self.key, self.output, self.vocab_size)


@dataclass
class ScriptedMatchers:
    """Implements `runtime.sampling.matcher.MatcherSource`; every key is a grammar but those in `lost`."""

    vocab_size: int
    stop_ids: frozenset[int] = frozenset()
    lost: set[str] = field(default_factory=set)

    def open(self, key: str) -> ScriptedMatcher:
        if key in self.lost:
            raise KeyError(key)
        return ScriptedMatcher(key, self.vocab_size, self.stop_ids)
