"""Which of a step's tokens the model has to give an output for.

First come those whose logits choose a token, then those whose logits are only looked at, and then, in extents, those whose
logits are about the prompt or whose hidden states are wanted. A token may be wanted more than once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runtime.executor.rows import Bools, Ints, Rows
from runtime.executor.wishes import Wish, WishRow


class Outputs:
    """The outputs of one step. `is_chosen` [rows]: the sampler chooses a token for the row."""

    def __init__(self, rows: Rows, is_chosen: Bools) -> None:
        self._rows = rows
        self._last_tokens = (rows.ends - rows.starts).cumsum() - 1  # [rows] the last token of each row
        self._logits: Ints = self._last_tokens[is_chosen]
        self._known: list[int] = []
        self._extents: list[Ints] = []
        self._num_in_extents = 0

    @property
    def num_logits(self) -> int:
        """The first outputs, which are turned into logits at once."""
        return len(self._logits) + len(self._known)

    def tokens(self) -> Ints:
        """[wanted] indices into the step's tokens."""
        if not (self._known or self._extents):
            return self._logits
        return np.concatenate([self._logits, np.array(self._known, dtype=np.int64), *self._extents])

    def want(self, wish: Wish, index: int, place: int | None, token_ids: npt.NDArray[np.int32]) -> WishRow:
        """Ask for what a wish needs of row `index`.

        place: its row of logits, if the sampler chooses for it. token_ids: of its slot; only those of the prompt are read.
        """
        start, end = int(self._rows.starts[index]), int(self._rows.ends[index])
        if place is None and wish.logprobs is not None and self._rows.samples[index]:
            place = self.num_logits
            self._known.append(int(self._last_tokens[index]))
        first, last = wish.prompt_positions(start, end)
        first_token = int(self._last_tokens[index]) + 1 - end  # the index of the token at position 0, if it were in the step
        return WishRow(
            wish=wish,
            sampled=place,
            prompt=self._extent(first_token + first, first_token + last),
            outputs=self._extent(first_token + start, first_token + end if wish.returns_hidden_states else first_token + start),
            first_id=int(token_ids[0]),
            prompt_ids=token_ids[first + 1 : last + 1].astype(np.int64),
            begins_prompt=wish.begins_prompt(start),
        )

    def _extent(self, first: int, last: int) -> slice:
        start = self._num_in_extents
        if last > first:
            self._extents.append(np.arange(first, last))
            self._num_in_extents += last - first
        return slice(start, self._num_in_extents)
