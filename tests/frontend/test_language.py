"""What programs say, what they read and what they learn when something fails."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import frontend as sgl
from frontend.backends.runtime_endpoint import RuntimeEndpoint
from frontend.chat_template import get_chat_template
from frontend.errors import BackendError, Cancelled, ProgramError, UnknownVariable, VariableFailed
from tests.frontend.fake_server import FakeServer


@sgl.function
def question(s: Any, text: str) -> str:
    s += "Q: " + text + "\nA:" + sgl.gen("answer", stop="\n")
    return "returned"


def test_a_variable_is_read_from_the_generated_text(backend: RuntimeEndpoint) -> None:
    state = question.run(text="Why?", backend=backend)
    assert state["answer"] == " fine"
    assert state.text() == "Q: Why?\nA: fine"
    assert state.ret_value == "returned"
    assert state.error() is None


def test_text_alone_asks_nobody(server: FakeServer, backend: RuntimeEndpoint) -> None:
    @sgl.function
    def silent(s: Any) -> None:
        s += "Only text"

    assert silent.run(backend=backend).text() == "Only text"
    assert server.requests == []


def test_turns_become_messages_and_text(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def chat(s: Any) -> None:
        s += sgl.system("Be kind.")
        with s.user():
            s += "  Hello"
        s += sgl.assistant_begin()
        s += sgl.gen("reply")
        s += sgl.assistant_end()

    state = chat.run(backend=backend)
    assert state.text() == "SYSTEM:Be kind.\nUSER:  Hello\nASSISTANT: fine\n"
    assert state.messages() == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "fine"},
    ]


def test_a_template_inserts_its_default_system_turn(backend: RuntimeEndpoint) -> None:
    backend.chat_template = get_chat_template("qwen")

    @sgl.function
    def chat(s: Any) -> None:
        s += sgl.user("Hi")

    state = chat.run(backend=backend)
    assert state.messages()[0] == {"role": "system", "content": "You are a helpful assistant."}
    assert state.text().startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi")


def test_a_template_stops_generations_beside_the_programs_own(server: FakeServer, backend: RuntimeEndpoint) -> None:
    backend.chat_template = get_chat_template("chatml")
    stops = ["\n"]
    program = sgl.function(lambda s: s.__iadd__(sgl.gen("a", stop=stops)))
    for _ in range(2):
        program.run(backend=backend).sync()
    assert [body["sampling_params"]["stop"] for body in server.bodies()] == [["\n", "<|im_end|>"]] * 2
    assert stops == ["\n"], "the program's list is its own"


@pytest.mark.parametrize("form", ["statement", "expression", "sum"])
def test_a_turn_of_the_state_is_appended_once(form: str, backend: RuntimeEndpoint) -> None:
    @sgl.function
    def chat(s: Any) -> None:
        if form == "statement":
            s.user("Hi")
        elif form == "expression":
            s += s.user("Hi")
        else:
            s += s.user("Hi") + s.assistant("Ho")

    assert chat.run(backend=backend).text() == "USER:Hi\n" + ("ASSISTANT:Ho\n" if form == "sum" else "")


def test_the_same_expression_may_be_appended_twice(backend: RuntimeEndpoint) -> None:
    turn = sgl.user("Hi")

    @sgl.function
    def chat(s: Any) -> None:
        s += turn
        s += turn

    assert chat.run(backend=backend).text() == "USER:Hi\n" * 2


def test_nested_roles_are_an_error(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def chat(s: Any) -> None:
        with s.user():
            s += sgl.system("no")

    assert "nested roles" in str(chat.run(backend=backend).error())


def test_a_turn_that_is_not_open_can_not_end(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def chat(s: Any) -> None:
        s += sgl.user_begin() + "x" + sgl.assistant_end()

    assert "a user turn is open" in str(chat.run(backend=backend).error())


@pytest.mark.parametrize(("value", "error"), [(None, ValueError), (5, TypeError)])
def test_only_text_and_expressions_are_appended(value: Any, error: type[Exception], backend: RuntimeEndpoint) -> None:
    @sgl.function
    def wrong(s: Any) -> None:
        s += value

    with pytest.raises(error):
        wrong.run(backend=backend)


def test_a_scope_is_all_text_inside(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def scoped(s: Any) -> None:
        s += "before "
        with s.var_scope("inside"):
            s += "a" + sgl.gen("b") + "c"
        assert s["inside"] == "a finec"
        s += " after"

    assert scoped.run(backend=backend).text() == "before a finec after"


def test_variables_can_be_set_and_asked_for(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s["x"] = 3
        s.set_var("y", [1])
        assert "x" in s
        assert "z" not in s
        s += sgl.gen()

    state = program.run(backend=backend)
    assert (state["x"], state.get_var("y"), state.get_var(None)) == (3, [1], " fine")


def test_a_name_that_is_generated_twice_is_waited_for_twice(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.answer = lambda body: str(len(server.bodies()))

    @sgl.function
    def program(s: Any) -> None:
        s += sgl.gen("n")
        s += sgl.gen("n")
        assert s["n"] == "2"
        s += sgl.gen("n")

    assert program.run(backend=backend)["n"] == "3"


def test_meta_info_is_what_the_server_said(backend: RuntimeEndpoint) -> None:
    meta_info = question.run("Why?", backend=backend).get_meta_info("answer")
    assert meta_info is not None
    assert meta_info["finish_reason"] == {"type": "stop", "matched": 0}


def test_an_unknown_variable_is_named(backend: RuntimeEndpoint) -> None:
    state = question.run("Why?", backend=backend)
    with pytest.raises(UnknownVariable, match=r"no variable 'anser'; it has 'answer'"):
        state["anser"]
    with pytest.raises(KeyError):
        state["anser"]


# -- failures ------------------------------------------------------------------------------------------------------------


def test_a_failure_names_the_variable_and_the_cause(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (400, '{"error": {"message": "temperature is too hot"}}')
    state = question.run("Why?", backend=backend)
    with pytest.raises(VariableFailed, match=r"'answer' has no value: BackendError: .*temperature is too hot"):
        state["answer"]
    error = state.error()
    assert isinstance(error, BackendError)
    assert error.status == 400
    assert state.text() == "Q: Why?\nA:"


def test_nothing_waits_for_ever_after_a_failure(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (500, "boom")

    @sgl.function
    def program(s: Any) -> None:
        s += sgl.gen("a")
        s.sync()
        s += sgl.gen("b") + sgl.gen("c")
        with s.var_scope("d"):
            s += "x"
        s.sync()
        s.text()
        for name in "abcd":
            with pytest.raises(VariableFailed, match=f"'{name}'.*boom"):
                s[name]

    state = program.run(backend=backend)
    assert isinstance(state.error(), BackendError)
    assert len(server.bodies()) == 1, "what comes after a failure is not executed"


def test_what_was_generated_before_a_failure_stays(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (500, "boom") if "second" in body["text"] else None
    program = sgl.function(lambda s: s.__iadd__(sgl.gen("a") + " second" + sgl.gen("b")))
    state = program.run(backend=backend)
    assert state["a"] == " fine"
    with pytest.raises(VariableFailed):
        state["b"]


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(BackendError, match=r"127\.0\.0\.1:9"):
        RuntimeEndpoint("http://127.0.0.1:9")


def test_what_the_function_raises_comes_out_of_run(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.hold()

    @sgl.function
    def program(s: Any) -> None:
        s += sgl.gen("a")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        program.run(backend=backend)


def test_without_a_thread_a_failure_is_raised_where_it_happens(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (500, "boom")
    reached = []

    @sgl.function
    def program(s: Any) -> None:
        s += sgl.gen("a")
        reached.append(1)

    with pytest.raises(BackendError, match="boom"):
        program.run(backend=backend, use_thread=False)
    assert reached == []


def test_cancelling_aborts_the_request(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.hold()
    state = question.run("Why?", backend=backend)
    server.wait_until_open(1)
    state.cancel()
    assert isinstance(state.error(), Cancelled)
    with pytest.raises(VariableFailed, match="cancelled"):
        state["answer"]
    server.wait_until_open(0)
    assert server.num_aborted == 1


def test_no_backend_is_an_error() -> None:
    with pytest.raises(ProgramError, match="no backend"):
        question.run("Why?")


def test_the_default_backend_is_used(backend: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgl.global_config, "default_backend", None)
    sgl.set_default_backend(backend)
    assert question("Why?")["answer"] == " fine"
    assert sgl.get_server_info() == {}
    assert sgl.flush_cache() is None


def test_global_questions_without_a_backend_have_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgl.global_config, "default_backend", None)
    assert sgl.flush_cache() is False
    assert sgl.get_server_info() is None


# -- forks ---------------------------------------------------------------------------------------------------------------


def test_a_forks_prefix_is_computed_before_its_branches(server: FakeServer, backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "prefix"
        forks = s.fork(3)
        forks += lambda i: f" {i}"
        forks += sgl.gen("x")
        forks.join()
        assert s["x"] == [" fine"] * 3

    program.run(backend=backend).sync()
    first, *others = server.bodies()
    assert first == {"text": "prefix", "sampling_params": {"max_new_tokens": 0}}
    assert sorted(body["text"] for body in others) == ["prefix 0", "prefix 1", "prefix 2"]


def test_branches_run_side_by_side(server: FakeServer, backend: RuntimeEndpoint) -> None:
    program = sgl.function(lambda s: s.fork(4).__iadd__(sgl.gen("x")).join())
    server.hold()
    running = threading.Thread(target=program.run, kwargs={"backend": backend})
    running.start()
    server.wait_until_open(4)
    server.let_go()
    running.join()
    assert server.max_open == 4


def test_branches_have_the_parents_variables_and_roles(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.user("Hi") + sgl.assistant_begin() + sgl.gen("first")
        branch = s.fork()[0]
        branch["own"] = 1
        branch += " more" + sgl.assistant_end()
        assert (branch["first"], branch["own"]) == (" fine", 1)
        assert branch.messages()[-1] == {"role": "assistant", "content": "fine more"}
        assert "own" not in s

    assert program.run(backend=backend).text() == "USER:Hi\nASSISTANT: fine"


def test_joining_by_text_appends_what_the_branches_said(server: FakeServer, backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "Statements:"
        forks = s.fork(2)
        forks += [" one", " two"]
        forks.join("concate_and_append")
        s += " end"

    assert program.run(backend=backend).text() == "Statements: one two end"
    assert {body["text"] for body in server.bodies()} == {"Statements:"}


def test_a_failed_branch_fails_the_parent_that_joins_it(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (400, "no ones") if body["text"].endswith("1") else None

    @sgl.function
    def program(s: Any) -> None:
        s += "prefix"
        forks = s.fork(2)
        forks += lambda i: f" {i}" + sgl.gen("x")
        forks.join()

    error = program.run(backend=backend).error()
    assert "branch 1 of 2 failed" in str(error)
    assert "no ones" in str(error)


def test_a_failed_parent_fails_its_branches(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (400, "boom")

    @sgl.function
    def program(s: Any) -> None:
        s += "prefix" + sgl.gen("a")
        branch = s.fork(2)[0]
        branch += sgl.gen("b")
        with pytest.raises(VariableFailed, match="boom"):
            branch["b"]

    program.run(backend=backend).sync()


def test_a_copy_is_joined_at_its_end(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "text"
        with s.copy() as copy:
            copy += sgl.gen("x")

    state = program.run(backend=backend)
    assert state["x"] == [" fine"]
    assert state.text() == "text"


@pytest.mark.parametrize("wrong", [lambda s: s.fork(0), lambda s: s.fork(2).join("somehow")])
def test_what_can_not_be_forked_or_joined(wrong: Any, backend: RuntimeEndpoint) -> None:
    with pytest.raises(ProgramError):
        sgl.function(lambda s: wrong(s)).run(backend=backend)


def test_usage_counts_all_requests_and_forks(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "one two" + sgl.gen("a")
        s.fork(2).__iadd__(sgl.gen("b")).join()

    usage = program.run(backend=backend).usage()
    assert (usage.num_requests, usage.num_prompt_tokens, usage.num_completion_tokens) == (4, 2 + 3 + 3 + 3, 3)
    assert usage.cost is None


# -- streams -------------------------------------------------------------------------------------------------------------


def test_a_stream_gives_the_text_in_pieces(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.answer = lambda body: " one two three"
    state = question.run("Why?", backend=backend, stream=True)
    assert "".join(state.text_iter("answer")) == " one two three"
    assert "".join(question.run("Why?", backend=backend, stream=True).text_iter()) == "Q: Why?\nA: one two three"
    state.sync()
    assert state.ret_value == "returned"


def test_a_stream_comes_while_the_model_still_generates(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.answer = lambda body: server.open_doors.clear() or " one two"  # waits after the first word
    pieces = question.run("Why?", backend=backend, stream=True).text_iter("answer")
    assert next(pieces) == " one"
    server.let_go()
    assert list(pieces) == [" two"]


def test_without_streaming_the_text_is_one_piece(backend: RuntimeEndpoint) -> None:
    state = question.run("Why?", backend=backend)
    assert list(state.text_iter()) == ["Q: Why?\nA: fine"]
    assert list(state.text_iter("answer")) == [" fine"]


def test_a_broken_stream_raises(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.breaks_streams = True
    state = question.run("Why?", backend=backend, stream=True)
    with pytest.raises(VariableFailed, match="ended too early"):
        list(state.text_iter("answer"))
    with pytest.raises(BackendError, match="ended too early"):
        list(state.text_iter())


def test_what_a_streaming_function_raises_reaches_the_reader(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "text"
        raise ValueError("mine")

    state = program.run(backend=backend, stream=True)
    assert str(state.error()) == "mine"
    with pytest.raises(ValueError, match="mine"):
        list(state.text_iter())
    with pytest.raises(VariableFailed, match="mine"):
        list(state.text_iter("never"))


def test_a_streaming_program_reads_its_own_variables(backend: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.gen("a")
        s += s["a"] + s.text()

    assert program.run(backend=backend, stream=True).text() == " fine" * 3


# -- programs as values --------------------------------------------------------------------------------------------------


def test_the_first_argument_must_be_s() -> None:
    with pytest.raises(ProgramError, match='must be called "s"'):
        sgl.function(lambda state: None)


def test_bound_arguments_win_and_speculation_is_kept(backend: RuntimeEndpoint) -> None:
    bound = question.bind(text="Bound")
    assert bound.run(text="Given", backend=backend).text().startswith("Q: Bound")
    assert sgl.function(num_api_spec_tokens=8)(question.func).bind(text="x").num_api_spec_tokens == 8
    with pytest.raises(ProgramError, match="no argument nothing"):
        question.bind(nothing=1)


def test_run_says_the_defaults_and_gen_overrides_them(server: FakeServer, backend: RuntimeEndpoint) -> None:
    program = sgl.function(lambda s: s.__iadd__(sgl.gen("a", max_tokens=5, stop="x") + sgl.gen("b")))
    program.run(backend=backend, max_new_tokens=7, temperature=0.25, stop=["y"]).sync()
    first, second = (body["sampling_params"] for body in server.bodies())
    assert (first["max_new_tokens"], first["temperature"], first["stop"]) == (5, 0.25, "x")
    assert (second["max_new_tokens"], second["temperature"], second["stop"]) == (7, 0.25, ["y"])


def test_verbosity_prints_the_text(
    backend: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sgl.global_config, "verbosity", 2)
    question.run("Why?", backend=backend)
    assert capsys.readouterr().out == "Q: Why?\nA: fine\n"
