"""One sequence on its way from token ids to the client's text: decoding, stop strings and counts. Pure."""

from __future__ import annotations

import msgspec

from runtime.messages import Finish, TextOpen, TextRow, TokenLogprobs, TokenRow
from runtime.text.decoding import TextStream, TokenDecoding
from runtime.text.stop_strings import StopStrings
from runtime.text.token_bytes import TokenBytes

NO_TEXTS: dict[int, bytes] = {}


class TextSequence:
    """State of one open sequence. It is spent when `advance` returns a row with `finish`."""

    def __init__(self, opened: TextOpen, decoding: TokenDecoding, token_bytes: TokenBytes) -> None:
        """Raises `BadTokenId`."""
        options = opened.text
        self._opened = opened
        self._token_bytes = token_bytes
        self._stream = TextStream(decoding, skip_special_tokens=options.skip_special_tokens, context_ids=opened.prompt_ids)
        self._stops = StopStrings(options.stop, keep_match=options.no_stop_trim)
        self._num_completion_tokens = 0

    def advance(self, row: TokenRow) -> TextRow:
        """The text that `row` adds. Raises `BadTokenId`."""
        text, matched, num_used = self._write(self._shown_ids(row), is_last=row.finish is not None)
        if num_used is not None:
            row = _cut(row, num_used)
        finish = row.finish if matched is None else Finish("stop", matched=matched)
        if finish is not None and matched is None:
            text += self._stops.flush()
        self._num_completion_tokens += len(row.token_ids)
        is_plain = row.logprobs is None and row.prompt_logprobs is None
        return TextRow(
            request_id=row.request_id,
            text=text,
            token_ids=row.token_ids,
            num_completion_tokens=self._num_completion_tokens,
            num_prompt_tokens=self._opened.num_prompt_tokens,
            num_cached_tokens=self._opened.num_cached_tokens,
            finish=finish,
            logprobs=row.logprobs,
            prompt_logprobs=row.prompt_logprobs,
            token_texts=NO_TEXTS if is_plain else self._token_bytes.of(row.logprobs, row.prompt_logprobs),
            hidden_states=row.hidden_states,
        )

    def _write(self, token_ids: tuple[int, ...], *, is_last: bool) -> tuple[str, str | None, int | None]:
        """The text, the stop string that it completes, and after how many of the tokens, if some are left.

        A run that a grammar forced comes as one row, but it ends with the token that completes a stop string.
        """
        text = ""
        width = 1 if self._opened.text.stop else max(len(token_ids), 1)
        for start in range(0, len(token_ids), width):
            piece, matched = self._stops.push(self._stream.push(token_ids[start : start + width]))
            text += piece
            if matched is not None:
                return text, matched, start + width
        piece, matched = self._stops.push(self._stream.flush() if is_last else "")
        return text + piece, matched, None

    def _shown_ids(self, row: TokenRow) -> tuple[int, ...]:
        """All ids but the stop token that ended the sequence, which is no text unless the client wants it kept."""
        finish = row.finish
        is_stop_token = finish is not None and finish.type == "stop" and isinstance(finish.matched, int)
        if is_stop_token and not self._opened.text.no_stop_trim:
            return row.token_ids[:-1]
        return row.token_ids


def _cut(row: TokenRow, num_tokens: int) -> TokenRow:
    """The beginning of a row; of log probabilities one entry per token is kept."""
    if num_tokens >= len(row.token_ids):
        return row
    logprobs = row.logprobs
    if logprobs is not None:
        logprobs = TokenLogprobs(*(column[:num_tokens] for column in msgspec.structs.astuple(logprobs)))
    return msgspec.structs.replace(row, token_ids=row.token_ids[:num_tokens], logprobs=logprobs)
