"""The documented programs on the embedded model, through the server and through the engine in this process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import frontend as sgl
from frontend import ir
from frontend.backend import Backend
from frontend.errors import VariableFailed
from tests.e2e.server_process import running
from tests.frontend.programs import CHARACTER_REGEX, DATE_REGEX, IP_REGEX, programs

FLAGS = {"max_total_tokens": 8192}
PROGRAMS = programs(sgl, ir)
PLAIN = (
    "text_qa",
    "multi_turn",
    "tip_suggestion",
    "parallel_sample",
    "parallel_decoding",
    "expert_answer",
    "chat_example",
    "streamed",
    "batch",
    "bound",
)


@pytest.fixture(scope="module")
def endpoint(embedded_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    flags = ["--max-total-tokens", str(FLAGS["max_total_tokens"])]
    with running(flags, tmp_path_factory.mktemp("server") / "log") as server:
        endpoint = sgl.RuntimeEndpoint(server.url)
        yield endpoint
        endpoint.shutdown()


@pytest.fixture(scope="module")
def engine(embedded_gguf: Path) -> Iterator[Backend]:
    with sgl.Engine(**FLAGS) as engine:
        yield engine.endpoint


@pytest.fixture(params=["endpoint", "engine"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.getfixturevalue(request.param)
    return found


def states_of(name: str, backend: Backend) -> list[Any]:
    result = PROGRAMS[name](backend)
    states = result if isinstance(result, list) else [result]
    for state in states:
        assert state.error() is None, state.error()
    return states


@pytest.mark.parametrize("name", PLAIN)
def test_a_documented_program_runs(name: str, backend: Backend) -> None:
    for state in states_of(name, backend):
        assert state.usage().num_completion_tokens > 0


def test_the_chat_template_is_the_served_models(backend: Backend) -> None:
    template = backend.get_chat_template()
    assert template.name == "served"
    assert template.default_system_prompt == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def test_a_chat_says_the_same_as_the_chat_endpoint(endpoint: Any) -> None:
    import urllib.request

    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0, "max_tokens": 12}
    request = urllib.request.Request(endpoint.base_url + "/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        expected = json.load(response)["choices"][0]["message"]["content"]

    @sgl.function
    def chat(s: Any) -> None:
        s += sgl.user("What is the capital of France?")
        s += sgl.assistant(sgl.gen("answer", max_tokens=12, temperature=0))

    assert chat.run(backend=endpoint)["answer"] == expected


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("regex_ip", {"answer": IP_REGEX}),
        ("regex_dates", {"begin": DATE_REGEX, "end": DATE_REGEX}),
        ("character", {"json_output": CHARACTER_REGEX}),
        ("decode_int", {"hours": ir.REGEX_INT, "days": ir.REGEX_INT}),
        ("typed", {"float_res": ir.REGEX_FLOAT, "bool_res": ir.REGEX_BOOL}),
    ],
)
def test_constrained_answers_match(name: str, variables: dict[str, str], backend: Backend) -> None:
    (state,) = states_of(name, backend)
    for variable, regex in variables.items():
        assert re.fullmatch(regex, state[variable]) or state.get_meta_info(variable)["finish_reason"]["type"] == "length"


def test_a_schema_is_obeyed(backend: Backend) -> None:
    (state,) = states_of("city", backend)
    finish = state.get_meta_info("city")["finish_reason"]["type"]
    assert finish == "length" or "name" in json.loads(state["city"])


def test_a_json_of_pieces_is_json(backend: Backend) -> None:
    (state,) = states_of("decode_json", backend)
    assert state["json_output"].startswith('{\n  "name": "')


@pytest.mark.parametrize("name", ["select", "select_greedy", "select_unconditional", "tool_use", "react"])
def test_a_choice_is_one_of_the_choices(name: str, backend: Backend) -> None:
    (state,) = states_of(name, backend)
    variable = {"tool_use": "tool", "react": "action_1"}.get(name, "answer")
    choices = {"tool_use": ("calculator", "search engine"), "react": ("Search", "Finish")}
    assert state[variable] in choices.get(name, ("True", "False", "Unknown"))


def test_the_likelier_choice_is_found(backend: Backend) -> None:
    program = sgl.function(lambda s: s.__iadd__("The capital of France is" + sgl.select("a", [" Rome", " Paris", " xqzt"])))
    assert program.run(backend=backend)["a"] == " Paris"


def test_log_probabilities_are_in_the_meta_info(backend: Backend) -> None:
    (state,) = states_of("scored", backend)
    meta_info = state.get_meta_info("colour")
    assert len(meta_info["output_token_logprobs"]) == meta_info["completion_tokens"]
    assert len(meta_info["input_token_logprobs"]) == meta_info["prompt_tokens"]


def test_a_forks_prefix_is_computed_once(backend: Backend) -> None:
    @sgl.function
    def program(s: Any) -> Any:
        s += "A long beginning, said once: " + ", ".join(str(number) for number in range(40))
        forks = s.fork(3)
        forks += lambda i: f" branch {i}:" + sgl.gen("x", max_tokens=1)
        forks.join()
        return forks

    backend.flush_cache()
    for branch in program.run(backend=backend).ret_value:
        usage = branch.usage()
        assert usage.num_cached_tokens > 0.8 * usage.num_prompt_tokens


def test_a_batchs_prefix_is_computed_once(backend: Backend) -> None:
    shots = "The following are questions with answers. " + " ".join(
        f"Question {n}: {n} + 1? Answer: {n + 1}." for n in range(20)
    )
    program = sgl.function(lambda s, text: s.__iadd__(shots + text + sgl.gen("a", max_tokens=1)))
    backend.flush_cache()
    for state in program.run_batch([{"text": f" Question {n}:"} for n in range(100, 106)], backend=backend):
        usage = state.usage()
        assert usage.num_cached_tokens > 0.9 * usage.num_prompt_tokens


def test_the_same_program_says_the_same_everywhere(endpoint: Backend, engine: Backend) -> None:
    for name in ("multi_turn", "tool_use", "chat_example"):
        (here,), (there,) = states_of(name, engine), states_of(name, endpoint)
        if name != "tool_use":  # whose generation is drawn
            assert here.text() == there.text()
        else:
            assert here["tool"] == there["tool"]


def test_what_the_server_refuses_is_named(backend: Backend) -> None:
    program = sgl.function(lambda s: s.__iadd__("x" + sgl.gen("a", temperature=-1)))
    with pytest.raises(VariableFailed, match=r"'a' has no value: BackendError: .*temperature"):
        program.run(backend=backend)["a"]


def test_cancelling_frees_the_server(endpoint: Backend) -> None:
    program = sgl.function(lambda s: s.__iadd__("Count: 1, 2," + sgl.gen("a", max_tokens=1500, ignore_eos=True)))
    state = program.run(backend=endpoint, stream=True)
    next(state.text_iter("a"))
    state.cancel()
    while endpoint.get_server_info()["internal_states"][0]["num_open_requests"]:
        pass
    assert state.error() is not None


def test_an_image_needs_a_model_that_sees(backend: Backend) -> None:
    with pytest.raises(VariableFailed, match="image"):
        PROGRAMS["image_qa"](backend)["answer"]


def test_a_runtime_starts_a_server_and_stops_it(embedded_gguf: Path) -> None:
    with sgl.Runtime(max_total_tokens=2048) as runtime:
        program = sgl.function(lambda s: s.__iadd__("The capital of France is" + sgl.gen("a", max_tokens=4, temperature=0)))
        assert "Paris" in program.run(backend=runtime)["a"]
        answer = json.loads(runtime.generate("The capital of France is", {"max_new_tokens": 4, "temperature": 0}))
        assert "Paris" in answer["text"]
        assert sgl.flush_cache(runtime) is None
        assert sgl.get_server_info(runtime)["status"] == "ready"
        process = runtime._process
    assert process.returncode == 0
