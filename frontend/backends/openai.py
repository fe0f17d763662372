"""The backend that is OpenAI, or a server that speaks its API: `OpenAI("gpt-4o-mini")`, `OpenAI(name, base_url=...)`.

Chat models answer whole assistant turns. Completion models continue text, and they alone know `select` and `dtype`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from frontend.api_backend import ALWAYS_SENT, ApiBackend, items_of, meta_info_of
from frontend.api_errors import from_package, from_transport, transport_errors
from frontend.api_messages import strict_chat_of
from frontend.api_tokenizer import ApiTokenizer, LocalTokenizer, ServedTokenizer, tiktoken_of
from frontend.backend import Completion, Prompt, Selection, Usage
from frontend.chat_template import ChatTemplate, get_chat_template_by_model_path
from frontend.choices import ChoicesDecision, ChoicesSamplingMethod
from frontend.errors import BackendError, StreamBroken, Unsupported
from frontend.package_client import PackageClient
from frontend.packages import package
from frontend.retry import Retry
from frontend.sampling import Sampling, type_name
from frontend.token_contest import TokenContest

INSTRUCT_MODEL_NAMES = ("gpt-3.5-turbo-instruct",)
REASONING_MODELS = re.compile(r"(o\d|gpt-5)")
"""They count what they think as well, under another name."""
OPENAI_HOST = "api.openai.com"
SURE = 100
"""The logit bias that leaves no other choice."""


class OpenAI(ApiBackend):
    """`retry` decides about further tries instead of the package, whose `max_retries` is understood too."""

    sent = ALWAYS_SENT | {"frequency_penalty", "presence_penalty", "sampling_seed", "dtype"}

    def __init__(
        self,
        model_name: str,
        is_chat_model: bool | None = None,
        chat_template: ChatTemplate | None = None,
        is_azure: bool = False,
        *,
        tokenizer: Any = None,
        max_retries: int | None = None,
        retry: Retry | None = None,
        **client_args: Any,
    ) -> None:
        """`client_args` are those of the package's client: api_key, base_url, timeout, organization, default_headers, ...

        Without `is_chat_model` all models but gpt-3.5-turbo-instruct are chat models. `tokenizer` has `encode` and `decode`;
        without one, `select` and `dtype=int` use tiktoken's, or the `/tokenize` of a server that is not OpenAI's. Raises
        `MissingPackage`, and `BackendError` for a missing key.
        """
        self._openai = package("openai", extra="openai")
        client_class = self._openai.AsyncAzureOpenAI if is_azure else self._openai.AsyncOpenAI
        client = PackageClient(lambda: client_class(max_retries=0, **client_args), lambda client: client.close)
        template = chat_template or get_chat_template_by_model_path(model_name)
        super().__init__(model_name, template, client, retry or Retry.of(max_retries))
        self.is_chat_model = model_name not in INSTRUCT_MODEL_NAMES if is_chat_model is None else is_chat_model
        self.sent = self.sent | {"json_schema"} if self.is_chat_model else self.sent
        self._given_tokenizer = tokenizer
        self._tokenizer: ApiTokenizer | None = None
        self._number_token_ids: list[int] = []

    # -- generations -----------------------------------------------------------------------------------------------------

    async def _ask(self, prompt: Prompt, sampling: Sampling) -> Completion:
        if sampling.dtype is not None:
            return await self._ask_typed(prompt, sampling)
        answer = await self._create(**self._asked(prompt), **self._sampling_fields(sampling))
        return self._completion_of(answer)

    async def _ask_typed(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """Of completion models. Raises `Unsupported` for other types than int and str."""
        name = type_name(sampling.dtype or "")
        sampling = replace(sampling, stop=None, dtype=None)
        if self.is_chat_model or name not in ("int", "str"):
            raise Unsupported(f"dtype={name} needs a completion model and int or str")
        if name == "int":
            fields = {**self._sampling_fields(sampling), "stop": [" "], "logit_bias": await self._number_bias()}
            return self._completion_of(await self._create(prompt=prompt.text, **fields))
        fields = {**self._sampling_fields(sampling), "stop": '"'}
        said = self._completion_of(await self._create(prompt=prompt.text + '"', **fields))
        return replace(said, text=f'"{said.text}"')

    async def _pieces(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        if sampling.dtype is not None:
            raise Unsupported("a generation with a dtype can not be streamed by OpenAI")
        fields = {**self._asked(prompt), **self._sampling_fields(sampling)}
        chunks = await self._create(**fields, stream=True, stream_options={"include_usage": True})
        usage, finish_reason = Usage(num_requests=1), None
        async with aclosing(items_of(chunks)) as items:
            async for chunk in items:
                usage = usage_of(chunk.usage) if chunk.usage else usage
                choice = chunk.choices[0] if chunk.choices else None
                finish_reason = (choice and choice.finish_reason) or finish_reason
                text = self._text_of(choice) if choice else ""
                yield Completion(text, meta_info_of(usage, chunk.id, finish_reason), usage)
        if finish_reason is None:
            raise StreamBroken(f"the stream of {self.model_name} ended too early")

    async def _create(self, **fields: Any) -> Any:
        client = self._client.open()
        endpoint = client.chat.completions if self.is_chat_model else client.completions
        return await endpoint.create(model=self.model_name, **fields)

    def _asked(self, prompt: Prompt) -> dict[str, Any]:
        if self.is_chat_model:
            return {"messages": strict_chat_of(prompt)}
        if prompt.images:
            raise Unsupported("a completion model of OpenAI takes no images")
        return {"prompt": prompt.text}

    def _sampling_fields(self, sampling: Sampling) -> dict[str, Any]:
        is_reasoning = self.is_chat_model and REASONING_MODELS.match(self.model_name)
        fields = {
            "max_completion_tokens" if is_reasoning else "max_tokens": sampling.max_new_tokens,
            "stop": list(sampling.stops) or None,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
            "seed": sampling.sampling_seed,
            "response_format": response_format(sampling) if self.is_chat_model else None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _completion_of(self, answer: Any) -> Completion:
        usage, choice = usage_of(answer.usage), answer.choices[0]
        text = (choice.message.content if self.is_chat_model else choice.text) or ""
        return Completion(text, meta_info_of(usage, answer.id, choice.finish_reason), usage)

    def _text_of(self, choice: Any) -> str:
        return (choice.delta.content if self.is_chat_model else choice.text) or ""

    # -- choices ---------------------------------------------------------------------------------------------------------

    async def select(self, prompt: Prompt, choices: list[str], temperature: float, method: ChoicesSamplingMethod) -> Selection:
        """By `TokenContest`, whatever `method` is. Raises `Unsupported` for chat models."""
        if self.is_chat_model:
            raise Unsupported("a chat model can not select between choices: take a completion model")
        tokenizer = self._api_tokenizer()
        with self._as_backend_errors():
            contest = TokenContest(await tokenizer.encode(choices))
            token_ids = await tokenizer.encode_prompt(prompt.text)
        usage = Usage()
        while not contest.is_over and contest.candidates:
            said, spent = await self._retry.call(partial(self._say_one_of, contest.candidates, token_ids, temperature))
            usage += spent
            contest.say(said)
            token_ids = [*token_ids, said]
        self.token_usage.add(usage)
        return Selection(ChoicesDecision(choices[contest.winner], {"scores": contest.scores}), usage)

    async def _say_one_of(self, candidates: list[int], token_ids: list[int], temperature: float) -> tuple[int, Usage]:
        bias = {str(candidate): SURE for candidate in candidates}
        with self._as_backend_errors():
            answer = await self._create(prompt=token_ids, logit_bias=bias, max_tokens=1, temperature=temperature)
            texts = await self._api_tokenizer().decode_each(candidates)
        said = answer.choices[0].text
        found = [candidate for candidate, text in zip(candidates, texts, strict=True) if text.strip() == said.strip()]
        exact = [candidate for candidate, text in zip(candidates, texts, strict=True) if text == said]
        if not found:
            raise BackendError(f"{self.model_name} said {said!r}, which begins none of the choices: is the tokenizer its own?")
        return (exact or found)[0], usage_of(answer.usage)

    async def _number_bias(self) -> dict[str, int]:
        if not self._number_token_ids:
            tokenizer = self._api_tokenizer()
            self._number_token_ids = [*await tokenizer.number_token_ids(), *await tokenizer.end_token_ids()]
        return {str(token_id): SURE for token_id in self._number_token_ids}

    def _api_tokenizer(self) -> ApiTokenizer:
        if self._tokenizer is None:
            given, is_foreign = self._given_tokenizer, self._client.open().base_url.host != OPENAI_HOST
            if given is not None:
                self._tokenizer = LocalTokenizer(lambda: given)
            elif is_foreign and self.model_name not in INSTRUCT_MODEL_NAMES:
                self._tokenizer = ServedTokenizer(self._post)
            else:
                self._tokenizer = LocalTokenizer(tiktoken_of(self.model_name))
        return self._tokenizer

    async def _post(self, path: str, body: Any) -> Any:
        return await self._client.open().post(path, cast_to=object, body=body)

    # -- errors ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _as_backend_errors(self) -> Iterator[None]:
        try:
            yield
        except self._openai.OpenAIError as error:
            raise from_package(self._openai, self.model_name, error) from error
        except transport_errors() as error:
            raise from_transport(self.model_name, error) from error


def usage_of(counted: Any) -> Usage:
    """Of OpenAI's form, in which servers leave fields out."""
    if counted is None:
        return Usage(num_requests=1)
    details = counted.prompt_tokens_details
    return Usage(
        num_requests=1,
        num_prompt_tokens=counted.prompt_tokens or 0,
        num_completion_tokens=counted.completion_tokens or 0,
        num_cached_tokens=(details.cached_tokens or 0) if details else 0,
    )


def response_format(sampling: Sampling) -> dict[str, Any] | None:
    """Strict, so that the answer is sure to fit the schema; the API refuses schemas which it can not be strict about."""
    if sampling.json_schema is None:
        return None
    schema = {"name": "answer", "schema": json.loads(sampling.json_schema), "strict": True}
    return {"type": "json_schema", "json_schema": schema}
