"""The requests that hold a slot, and how a step is made of them.

A step closes the gap between tokens planned and tokens wanted under one token budget: first those of each request that
generates, which is one token or the run that its grammar forced, then prefills in the order of admission, cut where the budget
ends. A budget smaller than what the generating requests need goes round among them.
"""

from __future__ import annotations

from runtime.messages import SlotOpen, StepPlan, StepRow
from runtime.scheduling.request import Request
from runtime.scheduling.stopping import masked_ids


class Step:
    """A planned step: its plan, and the request of each row."""

    __slots__ = (
        "num_decode_tokens",
        "num_prefill_tokens",
        "num_samples",
        "opened",
        "plan",
        "planned_at",
        "requests",
        "wanting",
    )

    def __init__(self) -> None:
        self.plan: StepPlan
        self.requests: list[Request] = []
        self.opened: list[Request] = []
        """Requests that have their first row; one that comes back from a retraction is not new."""
        self.wanting: list[Request] = []
        """Requests whose next token does not fit in their pages."""
        self.num_samples = 0
        self.num_prefill_tokens = 0
        self.num_decode_tokens = 0
        self.planned_at = 0.0


class Batch:
    """Owns the slots. Every running request is in exactly one of `prefilling` and `decoding`."""

    def __init__(self, num_slots: int, budget_tokens: int) -> None:
        self.num_slots = num_slots
        self.budget_tokens = budget_tokens
        self.prefilling: dict[Request, None] = {}
        self.decoding: dict[Request, None] = {}
        self.free_slots = list(range(num_slots - 1, -1, -1))
        self.closes: list[int] = []
        """Slots to close in the next plan; they may be given away before, since closes come before opens."""

    def __len__(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    def requests(self) -> list[Request]:
        return [*self.decoding, *self.prefilling]

    def join(self, request: Request) -> None:
        request.slot = self.free_slots.pop()
        self.prefilling[request] = None

    def leave(self, request: Request) -> None:
        if request in self.decoding:
            del self.decoding[request]
        else:
            del self.prefilling[request]
        if request.is_opened:
            self.closes.append(request.slot)
        self.free_slots.append(request.slot)

    def plan(self, step_id: int) -> Step | None:
        """The next step, or None if nobody has anything to compute; closes are then kept for the next one."""
        step = Step()
        rows: list[StepRow] = []
        self._plan_decodes(step, step_id, rows)
        opens = self._plan_prefills(step, step_id, rows)
        if not rows:
            return None
        step.plan = StepPlan(step_id=step_id, closes=tuple(self.closes), opens=tuple(opens), rows=tuple(rows))
        self.closes.clear()
        return step

    def _plan_decodes(self, step: Step, step_id: int, rows: list[StepRow]) -> None:
        budget, num_inside = self.budget_tokens, 0
        for request in self.decoding:  # the hot loop: a few hundred rounds per step
            start, end, capacity = request.num_planned_tokens, request.length, request.capacity_tokens
            if start >= request.num_target_tokens or start >= capacity:
                continue  # all is planned, or no page yet
            if budget == 0:
                break
            sample = True
            if end - start > 1:  # a run that the grammar forced
                end = min(end, capacity, start + budget)
                sample = end == request.length
                num_inside += not sample
            rows.append(StepRow(slot=request.slot, start=start, num_tokens=end - start, new_pages=request.pages, sample=sample))
            request.pages = ()
            budget -= end - start
            request.num_planned_tokens = end
            request.length += sample
            request.num_in_flight_rows += 1
            request.last_step = step_id
            step.requests.append(request)
            if end >= capacity and end < request.num_target_tokens:
                step.wanting.append(request)
        step.num_samples = len(rows) - num_inside
        step.num_decode_tokens = self.budget_tokens - budget
        if budget == 0:
            self._rotate(step.requests)

    def _rotate(self, served: list[Request]) -> None:
        for request in served:
            del self.decoding[request]
            self.decoding[request] = None

    def _plan_prefills(self, step: Step, step_id: int, rows: list[StepRow]) -> list[SlotOpen]:
        budget = self.budget_tokens - step.num_decode_tokens
        opens: list[SlotOpen] = []
        computed: list[Request] = []
        for request in self.prefilling:
            if budget == 0:
                break
            if not request.is_opened:
                opens.append(_open(request))
                if request.last_step == 0:
                    step.opened.append(request)
            row = _prefill_row(request, budget)
            rows.append(row)
            step.requests.append(request)
            request.num_in_flight_rows += 1
            request.last_step = step_id
            budget -= row.num_tokens
            step.num_prefill_tokens += row.num_tokens
            step.num_samples += row.sample
            if request.num_planned_tokens == request.length:
                computed.append(request)
                request.length += row.sample
        for request in computed:
            self._start_decoding(request, step)
        return opens

    def _start_decoding(self, request: Request, step: Step) -> None:
        del self.prefilling[request]
        self.decoding[request] = None
        if request.capacity_tokens <= request.num_planned_tokens < request.num_target_tokens:
            step.wanting.append(request)


def _open(request: Request) -> SlotOpen:
    pages, request.pages = request.pages, ()
    request.is_opened = True
    gathering = request.gathering
    return SlotOpen(
        slot=request.slot,
        token_ids=request.token_ids,
        num_prompt_tokens=request.num_prompt_tokens,
        pages=pages,
        params=request.params,
        masked_token_ids=masked_ids(request),
        grammar_key=request.grammar_key,
        logprobs=None if gathering is None else gathering.options,
        returns_hidden_states=gathering is not None and gathering.returns_hidden_states,
    )


def _prefill_row(request: Request, budget_tokens: int) -> StepRow:
    start = request.num_planned_tokens
    num_tokens = min(request.length - start, budget_tokens)
    request.num_planned_tokens = end = start + num_tokens
    sample = end == request.length and request.max_new_tokens > 0
    return StepRow(slot=request.slot, start=start, num_tokens=num_tokens, sample=sample)
