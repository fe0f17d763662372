"""The tokenizers of completion models behind an API: one in this process, or the server's own."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from frontend.errors import Unsupported
from frontend.packages import package

NUMBERS = (" ", *map(str, range(10)), *(f"{number:02}" for number in range(100)))
"""Longer ones would not all fit into a logit bias, and numbers made of some of them would be likelier than others."""


class ApiTokenizer(ABC):
    """Texts to token ids and back."""

    @abstractmethod
    async def encode(self, texts: list[str]) -> list[list[int]]:
        """Without special tokens."""

    @abstractmethod
    async def encode_prompt(self, text: str) -> list[int]:
        """With what the model wants before every prompt."""

    @abstractmethod
    async def decode_each(self, token_ids: list[int]) -> list[str]:
        """The text of each token."""

    async def end_token_ids(self) -> list[int]:
        """Those that end a text; none if they are not known."""
        return []

    async def number_token_ids(self) -> list[int]:
        """Of tokens that are digits only, and of the space that ends a number."""
        return list(dict.fromkeys(ids[0] for ids in await self.encode(list(NUMBERS)) if len(ids) == 1))


class LocalTokenizer(ApiTokenizer):
    """`load` gives an object with `encode(text)` and `decode(token_ids)`; it may take long, and is called once."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._loaded: asyncio.Task[Any] | None = None

    async def encode(self, texts: list[str]) -> list[list[int]]:
        tokenizer = await self._tokenizer()
        return [list(tokenizer.encode(text)) for text in texts]

    async def encode_prompt(self, text: str) -> list[int]:
        return (await self.encode([text]))[0]

    async def decode_each(self, token_ids: list[int]) -> list[str]:
        tokenizer = await self._tokenizer()
        return [str(tokenizer.decode([token_id])) for token_id in token_ids]

    async def end_token_ids(self) -> list[int]:
        end = getattr(await self._tokenizer(), "eot_token", None)
        return [] if end is None else [end]

    async def _tokenizer(self) -> Any:
        if self._loaded is None:
            self._loaded = asyncio.ensure_future(asyncio.to_thread(self._load))
        return await asyncio.shield(self._loaded)


class ServedTokenizer(ApiTokenizer):
    """The one of a server of ours, or of SGLang's. `post` asks it a body under a path, and gives the JSON of the answer."""

    def __init__(self, post: Callable[[str, Any], Any]) -> None:
        self._post = post

    async def encode(self, texts: list[str]) -> list[list[int]]:
        answer = await self._post("/tokenize", {"prompt": texts, "add_special_tokens": False})
        return list(answer["tokens"])

    async def encode_prompt(self, text: str) -> list[int]:
        return list((await self._post("/tokenize", {"prompt": text}))["tokens"])

    async def decode_each(self, token_ids: list[int]) -> list[str]:
        answer = await self._post("/detokenize", {"tokens": [[token_id] for token_id in token_ids]})
        return list(answer["text"])


def tiktoken_of(model_name: str) -> Callable[[], Any]:
    """A function that loads tiktoken's encoding of an OpenAI model. Raises `Unsupported` if tiktoken knows none."""
    tiktoken = package("tiktoken", extra="openai")
    try:
        encoding_name = tiktoken.encoding_name_for_model(model_name)
    except KeyError as error:
        raise Unsupported(f"the tokenizer of {model_name} is not known: give one as OpenAI(..., tokenizer=...)") from error
    return lambda: tiktoken.get_encoding(encoding_name)
