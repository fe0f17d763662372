"""The detokenizer: turns each step's token ids into text and finds stop strings.

Owns the text state of every open sequence. Receives `TokenBatch` from the scheduler and `EngineLost`; sends one `TextBatch`
per step to http, `Abort` to the scheduler when a stop string ended a sequence, and `RequestFailed` to http for a token that
can not be decoded. Rows of sequences that are not open are late answers: they are counted and dropped, so that a sequence
gets one terminal row at most.
"""

from __future__ import annotations

import logging

from runtime.actors.actor import Actor, Ref, receives
from runtime.errors import InternalError
from runtime.loading.vocabulary import Vocabulary
from runtime.messages import Abort, EngineLost, RequestFailed, TextBatch, TextOpen, TextRow, TokenBatch, TokenRow
from runtime.text.decoding import BadTokenId, TokenDecoding
from runtime.text.text_sequence import TextSequence
from runtime.text.token_bytes import TokenBytes

log = logging.getLogger(__name__)


class Detokenizer(Actor):
    def __init__(self, vocabulary: Vocabulary, http: Ref, scheduler: Ref) -> None:
        self._decoding = TokenDecoding(vocabulary.tokenizer)
        self._token_bytes = TokenBytes(vocabulary.tokenizer)
        self._http = http
        self._scheduler = scheduler
        self._sequences: dict[int, TextSequence] = {}
        self.num_late_rows = 0

    @receives(TokenBatch)
    async def decode(self, batch: TokenBatch) -> None:
        for opened in batch.opens:
            self._open(opened)
        rows = [text_row for row in batch.rows if (text_row := self._advance(row)) is not None]
        for request_id in batch.closes:
            self._sequences.pop(request_id, None)
        if rows:
            self._http.tell(TextBatch(rows=tuple(rows)))

    @receives(EngineLost)
    async def forget(self, message: EngineLost) -> None:
        self._sequences.clear()

    def _open(self, opened: TextOpen) -> None:
        try:
            self._sequences[opened.request_id] = TextSequence(opened, self._decoding, self._token_bytes)
        except BadTokenId as error:
            self._fail(opened.request_id, error)

    def _advance(self, row: TokenRow) -> TextRow | None:
        sequence = self._sequences.get(row.request_id)
        if sequence is None:
            self.num_late_rows += 1
            return None
        try:
            text_row = sequence.advance(row)
        except BadTokenId as error:
            self._fail(row.request_id, error)
            return None
        if text_row.finish is not None:
            del self._sequences[row.request_id]
            if row.finish is None:
                self._scheduler.tell(Abort(request_id=row.request_id, cause="stop_string"))
        return text_row

    def _fail(self, request_id: int, error: BadTokenId) -> None:
        log.error("request %d: %s", request_id, error)
        self._sequences.pop(request_id, None)
        self._http.tell(RequestFailed(request_id=request_id, failure=InternalError("internal server error").failure))
        # As after a stop string, nothing more is wanted: the request has its answer and is forgotten here.
        self._scheduler.tell(Abort(request_id=request_id, cause="stop_string"))
