"""Sessions: the tree of finished requests, and `/generate` on top of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runtime.errors import InvalidRequest, RequestError
from runtime.http.sessions import Sessions
from tests.http.door import Door, open_door
from tests.http.scripted import BOS

SESSIONS = ("a", "b", "c")
RIDS = ("1", "2", "3", "4")


class SessionsMachine(RuleBasedStateMachine):
    """Against a plain model: for each session the prompts, outputs and parents of its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions = Sessions(max_sessions=2, max_tokens=40)
        self.model: dict[str, dict[str, tuple[str | None, list[int], list[int] | None]]] = {}

    @rule(session=st.sampled_from(SESSIONS))
    def open(self, session: str) -> None:
        try:
            self.sessions.open(session, 0.0)
        except RequestError:
            assert session in self.model or len(self.model) == 2
        else:
            assert session not in self.model
            self.model[session] = {}

    @rule(session=st.sampled_from(SESSIONS))
    def close(self, session: str) -> None:
        self.sessions.close(session)
        self.model.pop(session, None)

    @rule(
        session=st.sampled_from(SESSIONS),
        rid=st.sampled_from(RIDS),
        parent=st.none() | st.sampled_from(RIDS),
        new=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    )
    def begin(self, session: str, rid: str, parent: str | None, new: list[int]) -> None:
        turns = self.model.get(session)
        try:
            history = self.sessions.history(session, parent, 0.0)
        except InvalidRequest:
            assert turns is None or parent not in turns or turns[parent][2] is None
            return
        assert turns is not None
        assert history == ([] if parent is None else turns[parent][1] + (turns[parent][2] or []))
        try:
            self.sessions.begin(session, rid, parent, history + new, 0.0)
        except RequestError:
            assert rid in turns or self.num_tokens() + len(history + new) > 40
        else:
            turns[rid] = (parent, history + new, None)

    @rule(session=st.sampled_from(SESSIONS), rid=st.sampled_from(RIDS), output=st.lists(st.integers(0, 9), max_size=4))
    def finish(self, session: str, rid: str, output: list[int]) -> None:
        turn = self.model.get(session, {}).get(rid)
        if turn is None or turn[2] is None:
            self.sessions.finish(session, rid, output)
            if turn is not None:
                self.model[session][rid] = (turn[0], turn[1], output)

    @rule(session=st.sampled_from(SESSIONS), rid=st.sampled_from(RIDS))
    def drop(self, session: str, rid: str) -> None:
        self.sessions.drop(session, rid)
        turn = self.model.get(session, {}).get(rid)
        if turn is not None and turn[2] is None:
            del self.model[session][rid]

    @rule(session=st.sampled_from(SESSIONS), rid=st.none() | st.sampled_from(RIDS))
    def prune(self, session: str, rid: str | None) -> None:
        turns = self.model.get(session)
        if turns is None:
            with pytest.raises(InvalidRequest):
                self.sessions.prune(session, rid, 0.0)
            return
        gone = {name for name in turns if self.continues(turns, name, rid)}
        running = self.sessions.prune(session, rid, 0.0)
        assert set(running) == {name for name in gone if turns[name][2] is None}
        for name in gone:
            del turns[name]

    @staticmethod
    def continues(turns: dict[str, Any], name: str, rid: str | None) -> bool:
        if rid is None:
            return True
        parent = turns[name][0]
        while parent is not None and parent != rid:
            parent = turns[parent][0] if parent in turns else None
        return bool(parent == rid)

    def num_tokens(self) -> int:
        return sum(len(prompt) + len(output or ()) for turns in self.model.values() for _, prompt, output in turns.values())

    @invariant()
    def counts_agree(self) -> None:
        assert self.sessions.num_tokens == self.num_tokens()
        assert len(self.sessions) == len(self.model)


TestSessions = SessionsMachine.TestCase
TestSessions.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_pruning_takes_what_continues_a_request_however_far_and_nothing_else() -> None:
    sessions = Sessions()
    sessions.open("s", 0.0)
    for rid, parent in [("root", None), ("child", "root"), ("grandchild", "child"), ("other", None)]:
        sessions.begin("s", rid, parent, [1, 2], 0.0)
        if rid != "grandchild":
            sessions.finish("s", rid, [3])
    assert sessions.prune("s", "root", 0.0) == ["grandchild"]
    assert sessions.num_tokens == 6
    assert sessions.history("s", "root", 0.0) == sessions.history("s", "other", 0.0) == [1, 2, 3]
    assert sessions.prune("s", None, 0.0) == []
    assert sessions.num_tokens == 0


def test_idle_sessions_make_room_for_new_ones() -> None:
    sessions = Sessions(max_sessions=2)
    sessions.open("a", 0.0, idle_s=10)
    sessions.open("b", 0.0, idle_s=100)
    with pytest.raises(RequestError):
        sessions.open("c", 5.0)
    sessions.open("c", 11.0)
    sessions.history("b", None, 11.0)
    with pytest.raises(InvalidRequest):
        sessions.history("a", None, 11.0)


# -- at the door -------------------------------------------------------------------------------------------------------


def run(test: Any) -> None:
    async def main() -> None:
        async with open_door() as door:
            await test(door)
            await door.assert_unharmed()

    asyncio.run(main())


async def say(door: Door, session: dict[str, Any], *, is_streaming: bool = False, **body: Any) -> Any:
    """The last result."""
    fields = {"sampling_params": {"max_new_tokens": 2}, "session_params": session, "stream": is_streaming, **body}
    answer = await door.post("/generate", fields)
    assert answer.status == 200, answer.body
    return answer.events[-1] if is_streaming else answer.json


def prompt_of(door: Door) -> list[int]:
    return list(door.script.tokenized[-1].prompt.token_ids)  # type: ignore[union-attr]


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_request_continues_another(is_streaming: bool) -> None:
    async def test(door: Door) -> None:
        opened = await door.post("/open_session", {"capacity_of_str_len": 1000})
        session = opened.json
        assert isinstance(session, str)
        first = await say(door, {"id": session, "rid": None}, text="ab", rid="one", is_streaming=is_streaming)
        assert prompt_of(door) == [BOS, 97, 98]
        assert first["meta_info"]["id"] == "one"
        outputs = first["output_ids"]
        await say(door, {"id": session, "rid": "one"}, text="c", rid="two", is_streaming=is_streaming)
        assert prompt_of(door) == [BOS, 97, 98, *outputs, 99]
        await say(door, {"id": session, "rid": "one"}, input_ids=[BOS, 50], is_streaming=is_streaming)
        assert prompt_of(door) == [BOS, 97, 98, *outputs, 50]
        await say(door, {"id": session, "rid": "one", "offset": 2}, input_ids=[50], is_streaming=is_streaming)
        assert prompt_of(door) == [BOS, 97, 50]
        await say(door, {"id": session, "rid": "one", "drop_previous_output": True}, text="c", is_streaming=is_streaming)
        assert prompt_of(door) == [BOS, 97, 98, 99]
        await say(door, {"id": session, "rid": "one", "replace": True}, text="d", rid="two", is_streaming=is_streaming)
        assert prompt_of(door) == [BOS, 97, 98, *outputs, 100]
        assert (await door.post("/close_session", {"session_id": session})).status == 200
        assert (await door.post("/close_session", {"session_id": session})).status == 200

    run(test)


def test_what_can_not_be_continued() -> None:
    async def test(door: Door) -> None:
        await door.post("/open_session", {"session_id": "s"})
        assert (await door.post("/open_session", {"session_id": "s"})).error["param"] == "session_id"
        await say(door, {"id": "s"}, text="a", rid="one")
        for session, body, param, status in [
            ({"id": "t"}, {}, "session_params.id", 400),
            ({"id": "s", "rid": "two"}, {}, "session_params.rid", 400),
            ({"id": "s", "rid": "one", "offset": -1}, {}, "session_params.offset", 400),
            ({"id": "s", "hat": 1}, {}, "session_params.hat", 400),
            ({}, {"session_params": 5}, "session_params", 400),
            ({"id": "s"}, {"rid": "one"}, "rid", 409),
            ({"id": "s"}, {"text": ["a"]}, "session_params", 400),
            ({"id": "s"}, {"sampling_params": {"n": 2}}, "sampling_params.n", 400),
        ]:
            answer = await door.post("/generate", {"text": "x", "session_params": session, **body})
            assert (answer.status, answer.error["param"]) == (status, param), answer.body

    run(test)


def test_a_request_that_failed_or_was_left_can_not_be_continued() -> None:
    async def test(door: Door) -> None:
        await door.post("/open_session", {"session_id": "s"})
        running = asyncio.create_task(door.post("/generate", {"input_ids": [9] * 5, "rid": "r", "session_params": {"id": "s"}}))
        assert (await running).status == 200
        body = {"text": "x", "rid": "held", "session_params": {"id": "s"}, "sampling_params": {"max_new_tokens": 10**6}}
        held = asyncio.create_task(door.post("/generate", body))
        await door.until(lambda: len(door.script.tokenized) == 2)
        answer = await door.post("/generate", {"text": "y", "session_params": {"id": "s", "rid": "held"}})
        assert answer.error["param"] == "session_params.rid"
        await door.post("/abort_request", {"rid": "held"})
        assert (await held).json["meta_info"]["finish_reason"]["type"] == "abort"
        answer = await door.post("/generate", {"text": "y", "session_params": {"id": "s", "rid": "held"}})
        assert answer.error["param"] == "session_params.rid"
        again = {"text": "x", "rid": "held", "session_params": {"id": "s"}, "sampling_params": {"max_new_tokens": 1}}
        assert (await door.post("/generate", again)).status == 200

    run(test)
