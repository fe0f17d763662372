"""One sequence on its way from token ids to the client's text: decoding, stop strings and counts. Pure."""

from __future__ import annotations

from runtime.messages import Finish, TextOpen, TextRow, TokenRow
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
        text = self._stream.push(self._shown_ids(row))
        if row.finish is not None:
            text += self._stream.flush()
        text, matched = self._stops.push(text)
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

    def _shown_ids(self, row: TokenRow) -> tuple[int, ...]:
        """All ids but the stop token that ended the sequence, which is no text unless the client wants it kept."""
        finish = row.finish
        is_stop_token = finish is not None and finish.type == "stop" and isinstance(finish.matched, int)
        if is_stop_token and not self._opened.text.no_stop_trim:
            return row.token_ids[:-1]
        return row.token_ids
