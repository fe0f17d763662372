"""The tokenizer actor: what comes in as a prompt goes out as checked ids, in order, or as one clear failure."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from runtime.actors.mailbox import Envelope
from runtime.loading.vocabulary import Vocabulary
from runtime.messages import (
    Abort,
    Admit,
    DecodeTokens,
    Done,
    EncodeTexts,
    Message,
    Refused,
    RequestFailed,
    Tokenize,
    Tokenized,
)
from runtime.params import ChatPrompt, GrammarSpec, LogprobOptions, Prompt, SamplingParams, TextOptions, TextPrompt, TokenPrompt
from runtime.text.chat_template import ChatTemplate
from runtime.text.tokenizer import MAX_INLINE_CHARS, Tokenizer
from tests.text.conftest import BYTE_LEVEL, SENTENCEPIECE, CountingClock, Outbox, token_id

CONTEXT_LENGTH = 64
HELLO = ({"role": "user", "content": "hello"},)
TEMPLATE = "{{ bos_token }}{{ strftime_now('') }}{% for m in messages %}{{ m.content }}{% endfor %}{{ tools or '' }}"


class ThreadClock(CountingClock):
    """Remembers on which thread a template asked for the time."""

    def wall(self) -> float:
        self.thread = threading.current_thread()
        return super().wall()


class Stage:
    """A tokenizer and what it has sent."""

    def __init__(
        self, vocabulary: Vocabulary = SENTENCEPIECE, *, vocab_size: int = 512, template: str | None = TEMPLATE
    ) -> None:
        self.clock = ThreadClock()
        chat = None if template is None else ChatTemplate(template, vocabulary.special_tokens, self.clock)
        self.scheduler, self.http = Outbox("scheduler"), Outbox("http")
        self.actor = Tokenizer(
            vocabulary,
            chat,
            self.scheduler.ref,
            self.http.ref,
            context_length=CONTEXT_LENGTH,
            vocab_size=vocab_size,
            logit_processors=("Shout",),
        )

    def receive(self, *messages: Message) -> None:
        async def handle_all() -> None:
            for message in messages:
                await self.actor.handle(Envelope("http", message))

        asyncio.run(handle_all())

    def ids(self, prompt: Prompt) -> tuple[int, ...]:
        self.receive(tokenize(prompt))
        (admit,) = self.scheduler.take()
        assert isinstance(admit, Admit)
        assert self.http.take() == [Tokenized(request_id=1, num_prompt_tokens=len(admit.token_ids))]
        return admit.token_ids

    def failure(self, prompt: Prompt, max_new_tokens: int | None = None) -> tuple[int, str | None, str | None, str]:
        """Status, code, param and message."""
        self.receive(tokenize(prompt, max_new_tokens=max_new_tokens))
        assert self.scheduler.take() == []
        (failed,) = self.http.take()
        assert isinstance(failed, RequestFailed)
        failure = failed.failure
        return failure.status, failure.code, failure.param, failure.message


def tokenize(prompt: Prompt, request_id: int = 1, max_new_tokens: int | None = 1, **fields: Any) -> Tokenize:
    params = SamplingParams(max_new_tokens=max_new_tokens)
    return Tokenize(request_id=request_id, prompt=prompt, params=params, text=TextOptions(), **fields)


def chat(*turns: dict[str, Any], **arguments: Any) -> ChatPrompt:
    return ChatPrompt(turns=turns, template_arguments=arguments)


def test_text_gets_the_models_special_tokens() -> None:
    bos = SENTENCEPIECE.tokenizer.token_to_id("<s>")
    ids = Stage().ids(TextPrompt("the"))
    assert ids == tuple(SENTENCEPIECE.tokenizer.encode("the").ids)
    assert ids[0] == bos
    assert len(ids) == 2


def test_a_chat_gets_only_the_bos_of_its_template() -> None:
    ids = Stage().ids(chat({"role": "user", "content": "the"}))
    assert ids == tuple(SENTENCEPIECE.tokenizer.encode("<s>the", add_special_tokens=False).ids)
    assert ids.count(token_id(SENTENCEPIECE, "<s>")) == 1


def test_ids_are_taken_as_they_are() -> None:
    assert Stage().ids(TokenPrompt((5, 3, 3, 511))) == (5, 3, 3, 511)


def test_special_tokens_in_plain_text_are_special() -> None:
    end = token_id(BYTE_LEVEL, "<|im_end|>")
    assert Stage(BYTE_LEVEL).ids(TextPrompt("a<|im_end|>"))[-1] == end


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"params": SamplingParams(max_new_tokens=1, logit_processor="Whisper")}, "custom_logit_processor"),
        ({"logprobs": LogprobOptions(token_ids=(0, 512))}, "token_ids_logprob"),
        ({"logprobs": LogprobOptions(token_ids=(-1,))}, "token_ids_logprob"),
    ],
)
def test_what_the_model_does_not_have_is_refused(fields: dict[str, Any], param: str) -> None:
    stage = Stage()
    message = msgspec.structs.replace(tokenize(TokenPrompt((5,))), **fields)
    stage.receive(message)
    (failed,) = stage.http.take()
    assert isinstance(failed, RequestFailed)
    assert (failed.failure.status, failed.failure.param) == (400, param)
    allowed = {
        "params": SamplingParams(max_new_tokens=1, logit_processor="Shout"),
        "logprobs": LogprobOptions(token_ids=(0, 511)),
    }
    stage.receive(msgspec.structs.replace(message, **allowed))
    assert len(stage.scheduler.take()) == 1


def test_everything_else_is_passed_on() -> None:
    stage = Stage()
    stage.receive(tokenize(TokenPrompt((5,)), request_id=9, priority=3, arrived=1.5))
    (admit,) = stage.scheduler.take()
    assert isinstance(admit, Admit)
    assert (admit.request_id, admit.priority, admit.arrived, admit.grammar_key) == (9, 3, 1.5, None)
    assert (admit.params, admit.text) == (SamplingParams(max_new_tokens=1), TextOptions())


@pytest.mark.parametrize(
    ("prompt", "param", "message"),
    [
        (TokenPrompt(()), "prompt", "empty"),
        (TokenPrompt((3, 512)), "prompt", "in [0, 511]"),
        (TokenPrompt((-1,)), "prompt", "in [0, 511]"),
        (TokenPrompt((10**30,)), "prompt", "in [0, 511]"),
        (TextPrompt("a \ud800 b"), "prompt", "lone surrogate at character 2"),
        (TextPrompt("x" * 3000 + "\udfff"), "prompt", "lone surrogate at character 3000"),
        (chat({"role": "user", "content": "\ud800"}), "messages", "lone surrogate"),
        (chat({"role": "user", "content": 5}, {"content": None, "role": []}, loop=1), "chat_template_kwargs", "loop"),
    ],
)
def test_bad_prompts(prompt: Prompt, param: str, message: str) -> None:
    status, _, named, text = Stage().failure(prompt)
    assert (status, named) == (400, param)
    assert message in text


def test_an_empty_text_is_refused_where_no_bos_is_added() -> None:
    assert Stage(BYTE_LEVEL).failure(TextPrompt(""))[0] == 400
    assert Stage(BYTE_LEVEL, template="").failure(chat(*HELLO))[2] == "messages"


def test_ids_beyond_the_logits_are_refused_even_from_the_tokenizer() -> None:
    assert Stage(vocab_size=100).failure(TextPrompt("the"))[:3] == (400, None, "prompt")


def test_without_a_chat_template_a_chat_is_refused() -> None:
    status, _, param, message = Stage(template=None).failure(chat(*HELLO))
    assert (status, param) == (400, "messages")
    assert "--chat-template" in message


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_new_tokens", "fits"),
    [
        (63, None, True),
        (64, None, False),
        (64, 0, True),
        (65, 0, False),
        (60, 4, True),
        (60, 5, False),
        (63, 1, True),
        (64, 1, False),
    ],
)
def test_prompt_and_completion_fit_the_context(num_prompt_tokens: int, max_new_tokens: int | None, fits: bool) -> None:
    stage, prompt = Stage(), TokenPrompt((3,) * num_prompt_tokens)
    if fits:
        stage.receive(tokenize(prompt, max_new_tokens=max_new_tokens))
        assert len(stage.scheduler.take()) == 1
        return
    status, code, param, message = stage.failure(prompt, max_new_tokens)
    assert (status, code, param) == (400, "context_length_exceeded", "prompt")
    assert "64 tokens" in message
    assert str(num_prompt_tokens) in message


def test_the_length_message_is_openais() -> None:
    assert Stage().failure(TokenPrompt((3,) * 60), 10)[3] == (
        "This model's maximum context length is 64 tokens. However, you requested 70 tokens (60 in the prompt, 10 in the "
        "completion). Please reduce the length of the prompt or completion."
    )


def test_a_hopelessly_long_text_is_refused_without_encoding() -> None:
    class Refuses:
        """A tokenizer that can not encode."""

        normalizer = None

        def get_vocab(self) -> dict[str, int]:
            return {"abc": 0}

    stage = Stage(replace(BYTE_LEVEL, tokenizer=Refuses()))  # type: ignore[arg-type]
    status, code, _, message = stage.failure(TextPrompt("x" * 1000))
    assert (status, code) == (400, "context_length_exceeded")
    assert "more than 333 tokens" in message


def test_choices_that_share_a_prompt_share_its_encoding() -> None:
    stage, prompt = Stage(), chat(*HELLO)
    stage.receive(*(tokenize(prompt, request_id) for request_id in range(5)))
    admits = stage.scheduler.take()
    assert [admit.request_id for admit in admits if isinstance(admit, Admit)] == [0, 1, 2, 3, 4]
    assert stage.clock.num_reads == 1
    stage.receive(tokenize(chat(*HELLO)))
    assert stage.clock.num_reads == 2


def test_choices_that_share_a_bad_prompt_all_fail() -> None:
    stage, prompt = Stage(), TextPrompt("\ud800")
    stage.receive(*(tokenize(prompt, request_id) for request_id in range(3)))
    assert [failed.request_id for failed in stage.http.take() if isinstance(failed, RequestFailed)] == [0, 1, 2]


def test_only_long_prompts_leave_the_loop() -> None:
    stage = Stage()
    stage.ids(chat(*HELLO))
    assert stage.clock.thread is threading.main_thread()
    long = {"role": "user", "content": "he" * MAX_INLINE_CHARS}
    stage.receive(tokenize(chat(long)))
    assert stage.clock.thread is not threading.main_thread()


def test_order_is_kept_when_a_prompt_leaves_the_loop() -> None:
    stage = Stage(BYTE_LEVEL)
    long = TextPrompt("hell" * 16 + " " * MAX_INLINE_CHARS)
    stage.receive(tokenize(long, 1, None), Abort(request_id=1, cause="disconnect"), tokenize(TextPrompt("a"), 2))
    assert [message.request_id for message in stage.http.take() if isinstance(message, RequestFailed)] == [1]
    abort, admit = stage.scheduler.take()
    assert abort == Abort(request_id=1, cause="disconnect")
    assert isinstance(admit, Admit)


def test_the_same_grammar_has_the_same_key() -> None:
    stage = Stage()
    spec = GrammarSpec("regex", "a+\ud800")
    stage.receive(
        tokenize(TokenPrompt((5,)), 1, grammar=spec),
        tokenize(TokenPrompt((5,)), 2, grammar=GrammarSpec("regex", "a+\ud800")),
        tokenize(TokenPrompt((6,)), 3, grammar=GrammarSpec("regex", "b")),
    )
    first, second, third = [admit for admit in stage.scheduler.take() if isinstance(admit, Admit)]
    assert first.grammar == second.grammar == spec
    assert first.grammar_key == second.grammar_key != third.grammar_key


def test_tools_reach_the_template() -> None:
    stage = Stage(BYTE_LEVEL)
    ids = stage.ids(chat({"role": "user", "content": ""}, tools=["abab"]))
    assert "abab" in BYTE_LEVEL.tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["hello", "hello " * MAX_INLINE_CHARS], ids=["inline", "on a thread"])
def test_texts_are_encoded_and_decoded_for_whoever_asks(text: str) -> None:
    async def test() -> None:
        actor = Stage(replace(SENTENCEPIECE, adds_bos=True)).actor
        actor._encoding._context_length = 10**6
        with_bos = await actor.encode_texts(EncodeTexts(texts=(text, "")))
        without = await actor.encode_texts(EncodeTexts(texts=(text,), add_special_tokens=False))
        assert isinstance(with_bos, Done)
        assert isinstance(without, Done)
        assert with_bos.value[0][-len(without.value[0]) :] == without.value[0]
        decoded = await actor.decode_tokens(DecodeTokens(token_ids=(tuple(without.value[0]), ())))
        assert decoded.value == [text, ""]

    asyncio.run(test())


def test_what_can_not_be_encoded_is_refused_by_its_name() -> None:
    async def test() -> None:
        refused = await Stage().actor.encode_texts(EncodeTexts(texts=("\ud800",), param="text"))
        assert isinstance(refused, Refused)
        assert refused.failure.param == "text"

    asyncio.run(test())
