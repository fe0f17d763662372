"""Replies under random events: exactly one end, one statistic and at most one abort for every request."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runtime.errors import InternalError, Overloaded, RequestError
from runtime.http.reply import Bell, Reply
from runtime.messages import Abort, Finish, RequestFailed, Tokenize
from tests.http.test_replies import Table

MAX_OPEN = 5


class RepliesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = Table(max_open=MAX_OPEN)
        self.replies: list[Reply] = []
        self.bells: dict[Reply, Bell] = {}
        self.num_heard: Counter[Reply] = Counter()
        self.ends: Counter[int] = Counter()
        self.aborted: Counter[int] = Counter()
        self.num_stats = 0
        self.tokenized: list[int] = []

    def pick(self, choice: int) -> Reply | None:
        return self.replies[choice % len(self.replies)] if self.replies else None

    def has_rung(self, reply: Reply) -> bool:
        return self.bells[reply].num_rings > self.num_heard[reply]

    @rule()
    def submit(self) -> None:
        num_open = self.table.replies.num_open
        bell = Bell()
        try:
            reply = self.table.submit(bell=bell)
        except Overloaded:
            assert num_open == MAX_OPEN
        else:
            assert num_open < MAX_OPEN
            self.replies.append(reply)
            self.bells[reply] = bell

    @rule(choice=st.integers(0, 1000), is_last=st.booleans())
    def text(self, choice: int, is_last: bool) -> None:
        if reply := self.pick(choice):
            self.table.text(reply, "x", finish=Finish("stop") if is_last else None)

    @rule(choice=st.integers(0, 1000))
    def fail(self, choice: int) -> None:
        if reply := self.pick(choice):
            self.table.replies.fail(RequestFailed(request_id=reply.request_id, failure=InternalError("x").failure))

    @rule(choice=st.integers(0, 1000))
    def cancel(self, choice: int) -> None:
        if reply := self.pick(choice):
            reply.cancel("disconnect")

    @rule()
    def lose(self) -> None:
        self.table.replies.lose_all("test")

    @rule(choice=st.integers(0, 1000))
    def read(self, choice: int) -> None:
        """As an iteration does once the bell has rung."""
        reply = self.pick(choice)
        if reply is None or not self.has_rung(reply) or self.ends[reply.request_id]:
            return
        self.num_heard[reply] = self.bells[reply].num_rings
        try:
            row = reply.take()
        except RequestError:
            self.ends[reply.request_id] += 1
        else:
            assert row.text or row.finish
            self.ends[reply.request_id] += row.finish is not None

    @invariant()
    def each_ends_once(self) -> None:
        closed = [reply for reply in self.replies if not reply.is_open]
        self.num_stats += len(self.table.stats())
        assert self.num_stats == len(closed)
        assert self.table.replies.num_open == len(self.replies) - len(closed)
        for message in self.table.sent():
            if isinstance(message, Abort):
                assert message.request_id in self.tokenized, "an abort overtook its request"
                self.aborted[message.request_id] += 1
            elif isinstance(message, Tokenize):
                self.tokenized.append(message.request_id)
        assert all(count == 1 for count in self.aborted.values())
        assert len(set(self.tokenized)) == len(self.tokenized) == len(self.replies)

    def teardown(self) -> None:
        """Everything that ended can be read to exactly one end."""
        for reply in self.replies:
            reply.cancel("disconnect")
            while not self.ends[reply.request_id]:
                assert self.has_rung(reply), "an end without a ring is never read"
                self.read(self.replies.index(reply))


RepliesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestReplies = RepliesMachine.TestCase
