"""What the rows of a step want beside their tokens, computed on the device while the step runs and read when it has ended.

Before the step it packs what is asked about; then it launches the computation; at the end `grant` turns the few numbers that
came back into what a row brings. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.top_logprobs import TopLogprobs
from runtime.executor.device_logprobs import AskedRows, fetched, token_logprobs
from runtime.executor.packet import Packet, Transfers
from runtime.executor.wishes import INVALID_NUMBERS, NOTHING, Granted, ToLogits, WishRow
from runtime.messages import TokenLogprobs, joined_logprobs
from runtime.params import LogprobOptions
from runtime.sampling.logprobs import after_nothing

ROWS_PER_SLICE = 128
"""Rows of logits in memory at a time, for log probabilities of a prompt."""


class DeviceWishes:
    """The wishes of one step. The launcher is done with it when the step is launched; then `grant` is the completer's."""

    def __init__(self, rows: Sequence[WishRow], packet: Packet) -> None:
        self._rows = rows
        asking = [(row, row.wish.logprobs) for row in rows if row.wish.logprobs is not None]
        sampled = [(row.sampled, options) for row, options in asking if row.sampled is not None]
        self._places = [place for place, _ in sampled]
        """Of the rows of logits that want log probabilities of their result."""
        self._place_words = packet.add(self._places)
        self._sampled = AskedRows(packet, [options for _, options in sampled]) if sampled else None
        self._prompts = [_Prompt(row, options, packet) for row, options in asking if len(row.prompt_ids)]
        self._found: TopLogprobs | None = None
        self._found_prompts: dict[int, TopLogprobs] = {}
        """By a prompt's first output."""
        self._states: dict[int, Tensor] = {}
        """By a row's first output."""

    def launch(
        self, words: Tensor, logits: Tensor, token_ids: Tensor, hidden: Tensor, to_logits: ToLogits, transfers: Transfers
    ) -> None:
        """Compute it.

        words: the packet on the device; logits: [sampled, vocab]; token_ids: [sampled] results; hidden: [extents, hidden].
        """
        if self._sampled is not None:
            places = words[self._place_words]
            found = self._sampled.read(logits[places], token_ids.long()[places], words, slice(None))
            self._found = fetched([found], transfers)
        for prompt in self._prompts:
            self._found_prompts[prompt.outputs.start] = fetched(prompt.read(words, hidden, to_logits), transfers)
        for row in self._rows:
            if row.wish.returns_hidden_states:
                self._states[row.outputs.start] = transfers.fetch(hidden[row.outputs].to(torch.float32))

    def grant(self, row: WishRow, token_ids: Sequence[int]) -> Granted:
        """Fulfil one when the step has ended. token_ids: the row's result, if it has a valid one."""
        options, sampled, prompt, states = row.wish.logprobs, None, None, None
        if options is not None and row.sampled is not None and token_ids:
            assert self._found is not None, "it was asked for"
            index = self._places.index(row.sampled)
            sampled = token_logprobs(self._found, slice(index, index + 1), token_ids, options)
            if sampled is None:
                return Granted(failure=INVALID_NUMBERS)
        if options is not None and (row.begins_prompt or len(row.prompt_ids)):
            prompt = self._prompt(row, options)
            if prompt is None:
                return Granted(failure=INVALID_NUMBERS)
        if row.wish.returns_hidden_states:
            states = tuple(map(tuple, self._states[row.outputs.start].tolist()))
        return Granted(sampled, prompt, states) if sampled or prompt or states else NOTHING

    def _prompt(self, row: WishRow, options: LogprobOptions) -> TokenLogprobs | None:
        parts = [after_nothing(row.first_id, options)] if row.begins_prompt else []
        if len(row.prompt_ids):
            found = self._found_prompts[row.prompt.start]
            part = token_logprobs(found, slice(None), row.prompt_ids.tolist(), options)
            if part is None:
                return None
            parts.append(part)
        return joined_logprobs(parts)


class _Prompt:
    """The outputs of a row that are about tokens of its prompt."""

    def __init__(self, row: WishRow, options: LogprobOptions, packet: Packet) -> None:
        self.outputs = row.prompt
        self._token_ids = packet.add(row.prompt_ids)
        self._asked = AskedRows(packet, [options] * len(row.prompt_ids))

    def read(self, words: Tensor, hidden: Tensor, to_logits: ToLogits) -> list[TopLogprobs]:
        """On the device, a few rows of logits at a time. hidden: [extents, hidden]"""
        outputs, token_ids = hidden[self.outputs], words[self._token_ids]
        parts = []
        for start in range(0, self._asked.num_rows, ROWS_PER_SLICE):
            rows = slice(start, start + ROWS_PER_SLICE)
            parts.append(self._asked.read(to_logits(outputs[rows]), token_ids[rows], words, rows))
        return parts
