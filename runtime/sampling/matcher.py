"""A matcher: how far one sequence has come in its grammar, and what the grammar allows next.

The Grammar actor compiles; the executor opens one matcher per sequence from the store that both share, and asks it at each
step.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.int32]
"""[ceil(vocab / 32)] bit i of word w: token 32 w + i is allowed."""


class Matcher(Protocol):
    """The state of one sequence. Not thread-safe: the executor's worker owns it."""

    def accept(self, token_id: int) -> bool:
        """Advance by a token; False, and no change, if the grammar does not allow it. A stop token is allowed at an end."""
        ...

    def fill_mask(self, mask: Mask) -> None:
        """Overwrite `mask` with the tokens that are allowed now; the stop tokens where the grammar may end."""
        ...

    def forced_ids(self) -> tuple[int, ...]:
        """The tokens that have to follow whatever is sampled, as the tokenizer would write them; the state does not change.

        Empty where the next token is a choice, or where what follows it could change how the text is cut into tokens.
        """
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the grammar has ended and nothing but a stop token may follow."""
        ...


class MatcherSource(Protocol):
    """Where the executor gets matchers."""

    def open(self, key: str) -> Matcher:
        """A new matcher at the beginning of the grammar. Raises `KeyError` if the grammar is not in the store any more."""
        ...
