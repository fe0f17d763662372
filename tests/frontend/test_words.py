"""The pieces that need no server: expressions, schemas, types, templates, pictures, thoughts, rendering, tracing, retries."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from PIL import Image

import frontend as sgl
from frontend import ir
from frontend.chat_template import get_chat_template, get_chat_template_by_model_path
from frontend.errors import BackendError, Overloaded, ProgramError, ServerStartFailed
from frontend.media import evenly_spaced, image_as_base64
from frontend.prefix_gate import common_prefix
from frontend.reasoning import MARKS, split
from frontend.record import Record
from frontend.rendering import as_html, as_terminal
from frontend.retry import Retry
from frontend.runtime import Runtime, flags, free_port
from frontend.sampling import Sampling, typed_as_regex
from frontend.schema import as_json_schema


class Place(msgspec.Struct):
    name: str


class City(pydantic.BaseModel):
    name: str


# -- expressions ---------------------------------------------------------------------------------------------------------


def test_sums_are_flat_and_keep_their_order() -> None:
    expr = "a" + sgl.gen("x") + ("b" + sgl.gen("y"))
    assert [type(item).__name__ for item in ir.items_of(expr)] == ["Text", "Gen", "Text", "Gen"]
    assert list(ir.names_set_by(sgl.assistant(expr))) == ["x", "y"]


def test_expressions_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        sgl.gen("x").name = "y"  # type: ignore[attr-defined]


def test_only_texts_are_added() -> None:
    with pytest.raises(TypeError):
        sgl.gen("x") + 5  # type: ignore[operator]


def test_a_bad_regex_is_found_where_it_is_written() -> None:
    with pytest.raises(re.error):
        sgl.gen("x", regex="(")


def test_a_bad_type_is_found_where_it_is_written() -> None:
    with pytest.raises(ProgramError, match="int, float, str, bool"):
        sgl.gen("x", dtype=list)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (None, None),
        ('{"type": "string"}', {"type": "string"}),
        ({"type": "string"}, {"type": "string"}),
        (City, City.model_json_schema()),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (Place, msgspec.json.schema(Place)),
    ],
)
def test_schemas_are_made_of_many_things(schema: Any, expected: Any) -> None:
    text = as_json_schema(schema)
    assert (None if text is None else json.loads(text)) == expected


def test_what_has_no_schema() -> None:
    with pytest.raises(ProgramError, match="no JSON schema"):
        as_json_schema(object())


@pytest.mark.parametrize(("dtype", "text"), [(int, "-12 \n"), ("float", ".5"), (bool, "True"), (str, '"some words"')])
def test_types_are_regexes(dtype: Any, text: str) -> None:
    typed = typed_as_regex(Sampling(dtype=dtype, stop="x"))
    assert typed.regex is not None
    assert re.fullmatch(typed.regex, text)
    assert typed.stop == (("x", " ", "\n") if dtype in (int, "float") else "x")


def test_a_type_beats_a_regex() -> None:
    with pytest.warns(UserWarning, match="the regex is not used"):
        assert typed_as_regex(Sampling(dtype=bool, regex="x")).regex == ir.REGEX_BOOL


# -- chat templates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_path", "name"),
    [
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-V3-Base", "default"),
        ("databricks/dbrx-instruct", "dbrx-instruct"),
        ("lmsys/vicuna-7b", "vicuna_v1.1"),
        ("liuhaotian/llava-v1.5-7b", "vicuna_v1.1"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-chat"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "llama-2-chat"),
        ("codellama/CodeLlama-7b-Instruct", "llama-2-chat"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3-instruct"),
        ("TinyLlama/TinyLlama-1.1B", "chatml"),
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen2-vl"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("lmms-lab/llava-onevision-qwen2-72b-chat", "chatml-llava"),
        ("openbmb/MiniCPM-V-2_6", "minicpmv"),
        ("01-ai/Yi-VL-6B", "yi-vl"),
        ("01-ai/Yi-1.5-9B-Chat", "yi-1.5"),
        ("google/gemma-2-2b-it", "gemma-it"),
        ("CohereForAI/c4ai-command-r-v01", "c4ai-command-r"),
        ("ibm-granite/granite-3.0-8b-instruct", "granite-3-instruct"),
        ("some/other", "default"),
    ],
)
def test_the_model_path_chooses_the_template(model_path: str, name: str) -> None:
    assert get_chat_template_by_model_path(model_path) is get_chat_template(name)


def test_llama_2_puts_the_system_turn_into_the_first_user_turn() -> None:
    turns = [{"role": role, "content": role[0]} for role in ("system", "user", "assistant", "user")]
    prompt = get_chat_template("llama-2-chat").get_prompt(turns)
    assert prompt == "[INST] <<SYS>>\ns\n<</SYS>>\n\nu [/INST]a </s><s>[INST] u [/INST]"


def test_a_system_turn_without_content_says_the_default() -> None:
    turn = {"role": "system", "content": None}
    assert get_chat_template("default").get_prompt([turn]) == ""
    assert "helpful assistant" in get_chat_template("qwen").get_prompt([turn])


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(ProgramError, match="choose one of default, claude"):
        get_chat_template("nothing")


# -- pictures and thoughts -----------------------------------------------------------------------------------------------


def test_a_picture_is_a_path_bytes_or_an_object(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"bytes")
    assert image_as_base64(str(tmp_path / "picture")) == image_as_base64(b"bytes") == base64.b64encode(b"bytes").decode()
    decoded = Image.open(BytesIO(base64.b64decode(image_as_base64(Image.new("RGB", (2, 3))))))
    assert decoded.size == (2, 3)
    with pytest.raises(ProgramError, match="not int"):
        image_as_base64(3)


def test_frames_are_evenly_spaced() -> None:
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(2, 3) == [0, 0, 1]
    assert evenly_spaced(5, 1) == [0]


@pytest.mark.parametrize(
    ("model_type", "text", "expected"),
    [
        ("qwen3", "<think>why</think>so", ("why", "so")),
        ("qwen3", "so", ("", "so")),
        ("qwen3", "<think>cut", ("cut", "")),
        ("deepseek-r1", "why</think>\n\nso", ("why", "so")),
        ("kimi", "◁think▷why◁/think▷so", ("why", "so")),
    ],
)
def test_thoughts_are_told_from_answers(model_type: str, text: str, expected: tuple[str, str]) -> None:
    assert split(text, MARKS[model_type]) == expected


def test_the_reasoning_of_an_unknown_model_is_refused() -> None:
    with pytest.raises(ProgramError, match="deepseek-r1"):
        sgl.separate_reasoning(sgl.gen("x"), "nothing")


# -- rendering -----------------------------------------------------------------------------------------------------------


def chat_record() -> Record:
    record = Record(get_chat_template("default"))
    record.begin_role("user")
    record.fill("1 < 2?")
    record.end_role("user")
    record.begin_role("assistant")
    record.generated("answer", "Yes & no", {})
    record.end_role("assistant")
    return record


def test_html_marks_roles_and_generations_and_escapes() -> None:
    html = as_html(chat_record())
    assert '<b style="color:#1d4ed8">user</b> 1 &lt; 2?' in html
    assert re.search(r'<b [^>]*>assistant</b> <span [^>]*title="answer">Yes &amp; no</span>', html)


def test_the_terminal_shows_the_same_text() -> None:
    shown = as_terminal(chat_record())
    assert "\x1b[32mYes & no\x1b[0m" in shown
    assert re.sub(r"\x1b\[\d+m", "", shown) == "USER:user 1 < 2?\nASSISTANT:assistant Yes & no\n"


# -- tracing -------------------------------------------------------------------------------------------------------------


@sgl.function
def inner(s: Any, x: Any) -> None:
    s += "inner" + x


@sgl.function
def outer(s: Any, x: Any) -> None:
    s += sgl.user("Constant " + x)
    s += sgl.gen("a")
    s += s["a"]
    inner("y")
    s.fork(2)[0].__iadd__(sgl.gen("b"))


def test_a_trace_has_the_expressions_in_order() -> None:
    tracer = outer.trace()
    kinds = [type(node).__name__ for node in tracer.flatten_nodes()]
    assert kinds == ["Text", "Text", "Argument", "Text", "Gen", "Variable"]
    assert len(tracer.child_states) == 3
    assert tracer.prefix() == "USER:Constant "


def test_a_traced_argument_has_no_text() -> None:
    with pytest.raises(ProgramError, match="'x' is not known"):
        sgl.function(lambda s, x: s.__iadd__(f"{x}")).trace()
    assert sgl.function(lambda s, x: s.__iadd__(f"{x}")).trace(x="known").prefix() == "known"


# -- retries and servers -------------------------------------------------------------------------------------------------


def attempts(*results: BackendError | str) -> Any:
    left = list(results)

    async def attempt() -> str:
        result = left.pop(0)
        if isinstance(result, BackendError):
            raise result
        return result

    return attempt


def test_what_may_pass_is_tried_again() -> None:
    retry = Retry(num_tries=3, first_pause_s=0.0)
    assert asyncio.run(retry.call(attempts(Overloaded("x"), Overloaded("y"), "done"))) == "done"
    with pytest.raises(Overloaded, match="third"):
        asyncio.run(retry.call(attempts(Overloaded("x"), Overloaded("y"), Overloaded("third"))))
    with pytest.raises(BackendError, match="for good"):
        asyncio.run(retry.call(attempts(BackendError("for good"), "done")))


def test_pauses_double_up_to_a_limit_and_obey_the_server() -> None:
    retry = Retry(first_pause_s=1.0, max_pause_s=4.0)
    assert 0.5 <= retry.pause_s(1, Overloaded("x")) <= 1.0
    assert 2.0 <= retry.pause_s(9, Overloaded("x")) <= 4.0
    assert retry.pause_s(1, Overloaded("x", retry_after_s=60)) == 60


def test_server_arguments_are_flags() -> None:
    given = {"max_total_tokens": 64, "enable_metrics": True, "api_key": None, "quiet": False, "names": ["a", "b"]}
    assert list(flags(given)) == ["--max-total-tokens", "64", "--enable-metrics", "--names", "a", "b"]


def test_a_server_that_does_not_start_shows_its_log() -> None:
    with pytest.raises(ServerStartFailed, match=r"exit code 2(.|\n)*no-such-flag"):
        Runtime(no_such_flag=1)


def test_a_port_that_is_taken_is_passed_over() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port if port < 39999 else True


def test_what_two_texts_begin_with() -> None:
    assert [common_prefix("abc", "abd"), common_prefix("ab", "abc"), common_prefix("", "a")] == ["ab", "ab", ""]
