"""What a step's results mean for its requests: progress, tokens, what came beside them, and ends.

Pure. Invariant: a position of a sequence is handed out once, whether it was sampled, or forced by a grammar and told with the
row before; a row in flight at that time brings it a second time, and must bring the same.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.errors import EngineError, Failure, InternalError
from runtime.messages import INVALID_TOKEN, Finish, RowExtra, StepDone, StepRow
from runtime.scheduling.admission import Admission
from runtime.scheduling.batching import Step
from runtime.scheduling.effects import Outbox
from runtime.scheduling.ledger import PageLedger
from runtime.scheduling.request import Request, Stage
from runtime.scheduling.stopping import take_tokens

INVALID_NUMBERS = InternalError("the model produced invalid numbers for this request").failure


class Results:
    """`end` takes a request out of the scheduler, wherever it is."""

    def __init__(
        self,
        out: Outbox,
        ledger: PageLedger,
        admission: Admission,
        end: Callable[[Request], None],
        *,
        page_size: int,
    ) -> None:
        self._out = out
        self._ledger = ledger
        self._admission = admission
        self._end = end
        self._page_size = page_size

    def hand_out(self, step: Step, done: StepDone) -> None:
        """Raises `EngineError` if the executor broke the port's contract."""
        if len(done.token_ids) != step.num_samples:
            raise EngineError(f"step {done.step_id} returned {len(done.token_ids)} tokens, not {step.num_samples}")
        token_ids = iter(done.token_ids)
        extras = {extra.row: extra for extra in done.extras}
        for index, (row, request) in enumerate(zip(step.plan.rows, step.requests, strict=True)):
            token_id = next(token_ids) if row.sample else None
            request.num_in_flight_rows -= 1
            if request.stage is Stage.ENDED:
                continue
            if request.stage is Stage.RUNNING:
                request.num_computed_tokens = row.start + row.num_tokens
                if row.start < request.num_publishable_tokens:
                    self._publish(request)
            self._take(request, row, token_id, extras.get(index))

    def _publish(self, request: Request) -> None:
        size = self._page_size
        num_tokens = min(request.num_computed_tokens, request.num_publishable_tokens) // size * size
        if num_tokens > request.num_published_tokens:
            request.num_published_tokens = num_tokens
            self._ledger.publish(request)
            self._admission.lead(request, num_tokens)

    def _take(self, request: Request, row: StepRow, token_id: int | None, extra: RowExtra | None) -> None:
        if extra is not None and extra.failure is not None:
            self._fail(request, extra.failure)
            return
        if extra is not None and request.gathering is not None:
            request.gathering.add(row, extra)
        if token_id is not None:
            self._accept(request, row.start + row.num_tokens, token_id, extra)
        elif request.max_new_tokens == 0:
            self._end_without_output(request)

    def _accept(self, request: Request, position: int, token_id: int, extra: RowExtra | None) -> None:
        """Add the result at `position`, unless the row before brought it already."""
        if token_id == INVALID_TOKEN:
            self._fail(request, INVALID_NUMBERS)
            return
        if position < request.num_known_tokens:
            if request.output_ids[position - request.num_prompt_tokens] != token_id:
                raise EngineError(f"the executor gave token {token_id} where the grammar had forced another")
            return
        token_ids, finish = take_tokens(request, token_id, extra)
        self._out.add_row(request, token_ids, finish)
        if finish is not None:
            self._end(request)
        elif len(token_ids) > 1 and request.stage is Stage.RUNNING:
            self._lengthen(request)

    def _lengthen(self, request: Request) -> None:
        """Tokens were forced: they are known before they are planned, and may need pages."""
        request.length = max(request.length, request.num_known_tokens)
        if request.length > request.capacity_tokens:
            self._ledger.want(request)

    def _end_without_output(self, request: Request) -> None:
        if request.num_computed_tokens == request.num_prompt_tokens:
            self._out.add_row(request, (), Finish("length", length=0))
            self._end(request)

    def _fail(self, request: Request, failure: Failure) -> None:
        self._out.fail(request, failure)
        self._end(request)
