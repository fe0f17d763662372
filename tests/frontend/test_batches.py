"""`run_batch`: side by side, in order, each failure alone, the common prefix first, and on from a checkpoint."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import frontend as sgl
from frontend.backends.runtime_endpoint import RuntimeEndpoint
from frontend.errors import BackendError, CheckpointError, ProgramError
from tests.frontend.fake_server import FakeServer

SHOTS = "The following are questions with answers, of which there are many, as you will see.\n"


@sgl.function
def question(s: Any, text: str, end: str = "\n") -> str:
    s += SHOTS + f"Q: {text}" + end + "A:" + sgl.gen("answer")
    return text


@sgl.function
def chain(s: Any, text: str) -> None:
    for turn in range(3):
        s += text + sgl.gen(f"answer_{turn}")
        s += s[f"answer_{turn}"]


def arguments(number: int) -> list[dict[str, Any]]:
    return [{"text": str(index)} for index in range(number)]


def test_results_are_in_the_order_of_the_arguments(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.answer = lambda body: body["text"].removeprefix(SHOTS)
    states = question.run_batch(arguments(40), backend=backend)
    assert [state["answer"] for state in states] == [f"Q: {index}\nA:" for index in range(40)]
    assert [state.ret_value for state in states] == [str(index) for index in range(40)]


@pytest.mark.parametrize("program", [question, chain])
def test_all_requests_run_at_once(program: Any, server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.hold()
    num_threads = threading.active_count()
    results: list[Any] = []
    running = threading.Thread(target=lambda: results.extend(program.run_batch(arguments(300), backend=backend)))
    running.start()
    if program is question:
        server.wait_until_open(1)
        assert server.bodies() == [{"text": SHOTS + "Q: ", "sampling_params": {"max_new_tokens": 0}}]
        server.refuse = lambda body: server.open_doors.clear()  # the prefix closes the door behind it
        server.let_go()
    server.wait_until_open(300)
    if program is question:
        assert threading.active_count() - num_threads < 80, "a program that reads nothing needs no thread of its own"
    server.refuse = lambda body: None
    server.let_go()
    running.join()
    assert [state.error() for state in results] == [None] * 300


def test_no_more_run_at_once_than_is_allowed(server: FakeServer, backend: RuntimeEndpoint) -> None:
    states = chain.run_batch(arguments(20), backend=backend, num_threads=4)
    assert len(states) == 20
    assert server.max_open <= 4


def test_one_at_a_time_needs_no_prefix_first(server: FakeServer, backend: RuntimeEndpoint) -> None:
    question.run_batch(arguments(3), backend=backend, num_threads=1)
    assert server.max_open == 1
    assert len(server.bodies()) == 3


def test_the_common_prefix_is_computed_first(server: FakeServer, backend: RuntimeEndpoint) -> None:
    question.run_batch(arguments(10), backend=backend)
    first, *others = server.bodies()
    assert first == {"text": SHOTS + "Q: ", "sampling_params": {"max_new_tokens": 0}}
    assert len(others) == 10


def test_a_short_prefix_is_not_worth_it(server: FakeServer, backend: RuntimeEndpoint) -> None:
    program = sgl.function(lambda s, text: s.__iadd__("Q: " + text + sgl.gen("a")))
    program.run_batch(arguments(3), backend=backend)
    assert len(server.bodies()) == 3


def test_the_prefix_can_be_left_out(server: FakeServer, backend: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgl.global_config, "enable_precache_with_tracing", False)
    question.run_batch(arguments(3), backend=backend)
    assert len(server.bodies()) == 3


def test_a_prefix_that_is_refused_stops_nobody(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (400, "no") if body["sampling_params"]["max_new_tokens"] == 0 else None
    assert [state["answer"] for state in question.run_batch(arguments(3), backend=backend)] == [" fine"] * 3


def test_programs_that_ask_nothing_do_not_hold_up_the_others(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any, text: str) -> None:
        s += SHOTS
        if text == "1":
            s += sgl.gen("a")

    assert [state.error() for state in program.run_batch(arguments(3), backend=backend)] == [None] * 3


def test_a_failure_is_its_own(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (400, "not two") if "Q: 2" in body["text"] else None
    states = question.run_batch(arguments(4), backend=backend)
    assert [state["answer"] for index, state in enumerate(states) if index != 2] == [" fine"] * 3
    assert isinstance(states[2].error(), BackendError)


def test_what_a_function_raises_is_in_its_state(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any, text: str) -> None:
        s += sgl.gen("a")
        if text == "1":
            raise ValueError("mine")

    states = program.run_batch(arguments(3), backend=backend)
    assert [str(state.error()) for state in states] == ["None", "mine", "None"]


def test_tuples_are_arguments_by_position(backend: RuntimeEndpoint) -> None:
    states = question.run_batch([("a",), ("b", "!")], backend=backend)
    assert [state.text().removeprefix(SHOTS) for state in states] == ["Q: a\nA: fine", "Q: b!A: fine"]
    with pytest.raises(ProgramError, match="does not fit"):
        question.run_batch([("a", "b", "c")], backend=backend)
    assert question.run_batch([], backend=backend) == []


def test_results_come_one_by_one(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.answer = lambda body: body["text"][-4:]
    states = question.run_batch(arguments(5), backend=backend, generator_style=True)
    assert next(states)["answer"] == "0\nA:"
    assert [state["answer"] for state in states] == [f"{index}\nA:" for index in range(1, 5)]


def test_leaving_the_results_aborts_the_rest(server: FakeServer, backend: RuntimeEndpoint) -> None:
    states = question.run_batch(arguments(8), backend=backend, num_threads=2, generator_style=True)
    next(states)
    server.hold()
    states.close()  # type: ignore[attr-defined]
    server.wait_until_open(0)
    assert len(server.bodies()) <= 1 + 8


def test_a_progress_bar_reaches_its_end(backend: RuntimeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    question.run_batch(arguments(3), backend=backend, progress_bar=True)
    assert "3/3" in capsys.readouterr().err


# -- checkpoints ---------------------------------------------------------------------------------------------------------


def test_a_batch_goes_on_where_it_stopped(server: FakeServer, backend: RuntimeEndpoint, tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    server.refuse = lambda body: (400, "not two") if "Q: 2" in body["text"] else None
    question.run_batch(arguments(4), backend=backend, checkpoint=path)
    server.refuse = lambda body: None
    server.requests.clear()
    states = question.run_batch(arguments(4), backend=backend, checkpoint=path)
    assert [body["text"].removeprefix(SHOTS) for body in server.bodies()] == ["Q: 2\nA:"]
    assert [state["answer"] for state in states] == [" fine"] * 4
    assert states[0].text() == SHOTS + "Q: 0\nA: fine"
    assert states[0].ret_value == "0"
    assert states[0].usage().num_requests == 1
    assert states[0].get_meta_info("answer")["completion_tokens"] == 1  # type: ignore[index]


def test_other_settings_are_run_again(server: FakeServer, backend: RuntimeEndpoint, tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    question.run_batch(arguments(2), backend=backend, checkpoint=path)
    server.requests.clear()
    question.run_batch(arguments(2), backend=backend, checkpoint=path, temperature=0)
    assert len(server.bodies()) == 3


def test_a_line_that_was_cut_off_is_run_again(server: FakeServer, backend: RuntimeEndpoint, tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    question.run_batch(arguments(2), backend=backend, checkpoint=path, num_threads=1)
    path.write_text(path.read_text()[:-20])
    server.requests.clear()
    for _ in range(2):
        states = question.run_batch(arguments(2), backend=backend, checkpoint=path, num_threads=1)
        assert [state["answer"] for state in states] == [" fine"] * 2
    assert len(server.bodies()) == 1


def test_another_file_is_no_checkpoint(backend: RuntimeEndpoint, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello\n")
    with pytest.raises(CheckpointError, match=r"notes\.txt"):
        question.run_batch(arguments(2), backend=backend, checkpoint=path)


def test_what_is_not_json_is_not_kept(
    server: FakeServer, backend: RuntimeEndpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = sgl.function(lambda s: s.set_var("thing", object()))
    states = program.run_batch([{}, {}], backend=backend, checkpoint=tmp_path / "batch.jsonl")
    assert [state.error() for state in states] == [None, None]
    assert "'thing' can not be written as JSON" in caplog.text
