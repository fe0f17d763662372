"""Speculative API execution: one call for several generations, of completion and of chat models."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

import frontend as sgl
from frontend.backend import Backend, Completion, Prompt, Usage
from frontend.errors import ProgramError, SpeculationFailed
from frontend.sampling import Sampling
from frontend.speculation import Constant, Generated, matched

ANSWER = " Ada\nBirthday: 10 December\nJob: countess\nmore"


class Scripted(Backend):
    """Answers with `texts`, one after the other."""

    def __init__(self, *texts: str, is_chat_model: bool = False) -> None:
        super().__init__()
        self.is_chat_model = is_chat_model
        self.asked: list[tuple[Prompt, Sampling]] = []
        self._texts = list(texts)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.asked.append((prompt, sampling))
        return Completion(self._texts.pop(0), {}, Usage(num_requests=1))

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        yield await self.generate(prompt, sampling)


@sgl.function(num_api_spec_tokens=64)
def completion(s: Any) -> None:
    s += "Name:" + sgl.gen("name", stop="\n") + "\nBirthday:" + sgl.gen("birthday", stop="\n")
    s += "\nJob:" + sgl.gen("job", stop="\n")


@sgl.function(num_api_spec_tokens=64)
def chat(s: Any) -> None:
    s += sgl.user("Make one up.")
    s += sgl.assistant("Name:" + sgl.gen("name", stop="\n") + "\nJob:" + sgl.gen("job", stop="\n"))


def test_one_call_serves_generations_that_go_on_as_the_model_did() -> None:
    backend = Scripted(ANSWER)
    state = completion.run(backend=backend)
    assert [state[name] for name in ("name", "birthday", "job")] == [" Ada", " 10 December", " countess"]
    (_, sampling) = backend.asked[0]
    assert (sampling.max_new_tokens, sampling.stop) == (128, None)
    assert state.usage().num_requests == 1


def test_another_text_than_the_models_asks_again() -> None:
    backend = Scripted(" Ada\nAge: 36 years and some months\nJob: none", " 1815\n", " countess\n")
    state = completion.run(backend=backend)
    assert [state[name] for name in ("name", "birthday", "job")] == [" Ada", " 1815", " countess"]
    assert len(backend.asked) == 3


def test_a_generation_without_a_stop_is_asked_as_it_is() -> None:
    backend = Scripted("x\ny", "whole")
    program = sgl.function(lambda s: s.__iadd__(sgl.gen("a", stop="\n") + sgl.gen("b", max_tokens=3)), num_api_spec_tokens=8)
    assert program.run(backend=backend)["b"] == "whole"
    assert backend.asked[1][1].max_new_tokens == 3


def test_a_chat_turn_is_asked_for_as_a_whole() -> None:
    backend = Scripted("Name: Ada\nJob: countess\n", is_chat_model=True)
    state = chat.run(backend=backend)
    assert (state["name"], state["job"]) == (" Ada", " countess")
    assert state.messages()[-1]["content"] == "Name: Ada\nJob: countess"
    prompt, sampling = backend.asked[0]
    assert (prompt.role, prompt.turn_text, prompt.messages[-1]["role"]) == ("assistant", "", "user")
    assert (sampling.max_new_tokens, sampling.stop) == (64, None)


def test_an_answer_in_another_form_is_asked_for_again() -> None:
    backend = Scripted("Sure!", "Name: Ada\nJob: countess", is_chat_model=True)
    state = chat.run(backend=backend)
    assert state["name"] == " Ada"
    assert state.usage().num_requests == 2


def test_three_answers_in_another_form_fail() -> None:
    state = chat.run(backend=Scripted("Sure!", "Sure!", "Sure!", is_chat_model=True))
    assert isinstance(state.error(), SpeculationFailed)


def test_a_constant_turn_asks_nobody() -> None:
    program = sgl.function(lambda s: s.__iadd__(sgl.assistant("Hello")), num_api_spec_tokens=8)
    assert program.run(backend=Scripted(is_chat_model=True)).messages() == [{"role": "assistant", "content": "Hello"}]


def test_a_turn_is_sampled_in_one_way() -> None:
    program = sgl.function(
        lambda s: s.__iadd__(sgl.assistant(sgl.gen("a", stop=".") + "." + sgl.gen("b", temperature=0.1))),
        num_api_spec_tokens=8,
    )
    assert isinstance(program.run(backend=Scripted(is_chat_model=True)).error(), ProgramError)


def test_speculation_does_not_stream() -> None:
    assert isinstance(completion.run(backend=Scripted(ANSWER), stream=True).error(), ProgramError)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [("a:1;b:2", ["a:", "1", ";b:", "2"]), ("a:1", None), ("x:1;b:2", None), ("a:;b:", ["a:", "", ";b:", ""])],
)
def test_text_is_matched_part_by_part(text: str, pieces: list[str] | None) -> None:
    parts = [Constant("a:"), Generated("a", (";",)), Constant(";b:"), Generated("b", ())]
    assert matched(parts, text) == pieces
