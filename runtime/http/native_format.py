"""How `/generate` writes its replies: an object per sequence, and in a stream all of its text again with each event.

An object is put together from prepared bytes, since there is one per token and client: what does not change is encoded
once, and lists that grow are kept encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from runtime.clock import Clock
from runtime.http.generation import Generation
from runtime.http.native_logprobs import NativeLogprobs
from runtime.http.schema.generate import NativeGenerations
from runtime.messages import Finish, TextRow

ABORTED = {"type": "abort", "message": "the request was aborted", "status_code": None, "err_type": None}


class NativeFormat:
    """Writes the reply to `request`; in a batch it is a list, and events have an index."""

    def __init__(self, request: NativeGenerations, clock: Clock) -> None:
        self._is_batch = request.is_batch
        lone = request.lone_token_only or (False,) * len(request.generations)
        self._sequences = [
            NativeSequence(
                generation,
                _logprobs(generation, request.returns_texts, lone_token_only),
                clock,
                index=index if request.is_batch else None,
                shows_ids_only=request.shows_ids_only,
            )
            for index, (generation, lone_token_only) in enumerate(zip(request.generations, lone, strict=True))
        ]

    def whole(self, rows: Sequence[TextRow]) -> Any:
        """The reply that is not a stream, as values; `rows` hold all text of each sequence."""
        return orjson.loads(self.whole_bytes(rows))

    def whole_bytes(self, rows: Sequence[TextRow]) -> bytes:
        """The same as JSON."""
        results = []
        for sequence, row in zip(self._sequences, rows, strict=True):
            sequence.add(row)
            results.append(sequence.encoded() + b"}")
        return b"[" + b",".join(results) + b"]" if self._is_batch else results[0]

    def of_row(self, index: int, row: TextRow) -> bytes:
        sequence = self._sequences[index]
        sequence.add(row)
        return b"data: " + sequence.encoded() + sequence.tail

    def event(self, index: int, row: TextRow) -> dict[str, Any]:
        """What a stream says when `row` has come, as values."""
        event: dict[str, Any] = orjson.loads(self.of_row(index, row).removeprefix(b"data: "))
        return event

    def is_finished(self, index: int) -> bool:
        """Whether a sequence ended by itself; one that failed or was aborted did not."""
        finish = self._sequences[index].finish
        return finish is not None and finish.type != "abort"

    def output_ids(self, index: int) -> list[int]:
        """All token ids of a sequence so far."""
        ids: list[int] = orjson.loads(b"[" + bytes(self._sequences[index].token_ids[1:]) + b"]")
        return ids

    def at_end(self) -> bytes:
        return b""


class NativeSequence:
    """One sequence so far. `tail` ends its events; `token_ids` are encoded, each after a comma."""

    def __init__(
        self,
        generation: Generation,
        logprobs: NativeLogprobs | None,
        clock: Clock,
        *,
        index: int | None,
        shows_ids_only: bool,
    ) -> None:
        self.tail = b"}\n\n" if index is None else b',"index":%d}\n\n' % index
        self._logprobs = logprobs
        self._returns_hidden_states = generation.returns_hidden_states
        self._clock = clock
        self._arrived = clock.monotonic()
        self._shows_ids_only = shows_ids_only
        self._label = orjson.dumps(generation.label)
        self._text = ""
        self.token_ids = bytearray()
        self._hidden_states: list[tuple[float, ...]] = []
        self._counts = b""
        self._row: TextRow

    @property
    def finish(self) -> Finish | None:
        return self._row.finish if self._counts else None

    def add(self, row: TextRow) -> None:
        """What came since the last call."""
        if not self._counts:
            self._counts = b'],"meta_info":{"id":%b,"prompt_tokens":%d,"cached_tokens":%d,"completion_tokens":' % (
                self._label,
                row.num_prompt_tokens,
                row.num_cached_tokens,
            )
        self._row = row
        self._text += row.text
        for token_id in row.token_ids:
            self.token_ids += b",%d" % token_id
        if self._logprobs is not None:
            self._logprobs.add(row)
        if row.hidden_states is not None:
            self._hidden_states += row.hidden_states

    def encoded(self) -> bytes:
        """The result so far, but for its last brace."""
        token_ids = bytes(self.token_ids[1:])
        return b"".join(
            (
                b'{"token_ids":[%b' % token_ids if self._shows_ids_only else b'{"text":' + orjson.dumps(self._text),
                b'],"output_ids":[' if self._shows_ids_only else b',"output_ids":[',
                token_ids,
                self._counts,
                b"%d" % self._row.num_completion_tokens,
                b"" if self._logprobs is None else self._logprobs.encoded(),
                b',"finish_reason":null}' if self._row.finish is None else self._ending(self._row.finish),
            )
        )

    def _ending(self, finish: Finish) -> bytes:
        entries: dict[str, Any] = {
            "finish_reason": _finish_reason(finish),
            "e2e_latency": self._clock.monotonic() - self._arrived,
        }
        if self._returns_hidden_states:
            entries["hidden_states"] = self._split_hidden_states()
        return b"," + orjson.dumps(entries)[1:]

    def _split_hidden_states(self) -> list[Any]:
        """As SGLang has them: one entry for all computed tokens of the prompt, then one for each token after it.

        The last token is never an input, so it has none.
        """
        num_decoded = max(0, self._row.num_completion_tokens - 1)
        num_prompt = max(0, len(self._hidden_states) - num_decoded)
        return [self._hidden_states[:num_prompt], *self._hidden_states[num_prompt:]]


def _logprobs(generation: Generation, returns_texts: bool, lone_token_only: bool) -> NativeLogprobs | None:
    if generation.logprobs is None:
        return None
    return NativeLogprobs(generation.logprobs, returns_texts=returns_texts, lone_token_only=lone_token_only)


def _finish_reason(finish: Finish) -> dict[str, Any]:
    if finish.type == "stop":
        return {"type": "stop", "matched": finish.matched}
    if finish.type == "length":
        return {"type": "length", "length": finish.length}
    return ABORTED
