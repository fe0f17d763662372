"""Prompts to token ids, and what a prompt must keep to: not empty, ids inside the logits width, room in the context. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import ContextLengthExceeded, InvalidRequest
from runtime.loading.vocabulary import Vocabulary
from runtime.messages import DecodeTokens, EncodeTexts
from runtime.params import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from runtime.text.chat_template import ChatTemplate, measure

NORMALIZER_SLACK = 4
"""How many characters a normalizer may make one of, at most, in a text that is refused for its length alone."""


class PromptEncoding:
    """Everything that decides what a prompt's token ids are. `vocab_size` is the width of the logits."""

    def __init__(
        self, vocabulary: Vocabulary, chat_template: ChatTemplate | None, *, context_length: int, vocab_size: int
    ) -> None:
        self._tokenizer = vocabulary.tokenizer
        self._chat_template = chat_template
        self._context_length = context_length
        self._vocab_size = vocab_size
        longest = max(map(len, self._tokenizer.get_vocab()), default=1)
        self._max_token_chars = longest * (1 if self._tokenizer.normalizer is None else NORMALIZER_SLACK)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Raises `InvalidRequest` where no ids come out, or ids that the model does not have."""
        match prompt:
            case TextPrompt(text):
                token_ids: Sequence[int] = self._ids(text, "prompt", add_special_tokens=True)
            case ChatPrompt():
                token_ids = self._ids(self._render(prompt), "messages", add_special_tokens=False)
            case TokenPrompt(token_ids):
                pass
        param = param_of(prompt)
        if not token_ids:
            raise InvalidRequest(f"{param} must not be empty", param=param)
        if min(token_ids) < 0 or max(token_ids) >= self._vocab_size:
            raise InvalidRequest(f"token ids in {param} must be in [0, {self._vocab_size - 1}]", param=param)
        return tuple(token_ids)

    def encode_texts(self, message: EncodeTexts) -> list[list[int]]:
        """Token ids of each text, which may be none. Raises `InvalidRequest`."""
        return [list(self._ids(text, message.param, add_special_tokens=message.add_special_tokens)) for text in message.texts]

    def decode_tokens(self, message: DecodeTokens) -> list[str]:
        """The text of each list of ids; ids that the tokenizer does not have have none."""
        skips = message.skip_special_tokens
        return [self._tokenizer.decode(token_ids, skip_special_tokens=skips) for token_ids in message.token_ids]

    def check_length(self, num_prompt_tokens: int, max_new_tokens: int | None, param: str) -> None:
        """A prompt fits with all the tokens that were asked for, or else with one. Raises `ContextLengthExceeded`."""
        at_least = 1 if max_new_tokens is None else 0
        if num_prompt_tokens + at_least > self._context_length:
            raise self._too_long(f"your {param} resulted in {num_prompt_tokens} tokens", param, param)
        num_tokens = num_prompt_tokens + (max_new_tokens or 0)
        if num_tokens > self._context_length:
            parts = f"{num_prompt_tokens} in the {param}, {max_new_tokens} in the completion"
            raise self._too_long(f"you requested {num_tokens} tokens ({parts})", f"{param} or completion", param)

    def _too_long(self, what: str, remedy: str, param: str) -> ContextLengthExceeded:
        """In OpenAI's words."""
        return ContextLengthExceeded(
            f"This model's maximum context length is {self._context_length} tokens. However, {what}. "
            f"Please reduce the length of the {remedy}.",
            param=param,
        )

    def _render(self, prompt: ChatPrompt) -> str:
        if self._chat_template is None:
            raise InvalidRequest(
                "this model has no chat template: use /v1/completions, or start the server with --chat-template FILE",
                param="messages",
            )
        arguments = dict(prompt.template_arguments)
        tools = arguments.pop("tools", None)
        return self._chat_template.render(
            prompt.turns, prompt.add_generation_prompt, prompt.continue_final_message, tools, arguments
        )

    def _ids(self, text: str, param: str, *, add_special_tokens: bool) -> Sequence[int]:
        self._check_text(text, param)
        # Of all ways to encode, only a batch is encoded without holding the interpreter's lock.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return encoding.ids

    def _check_text(self, text: str, param: str) -> None:
        """Refuse what can not be encoded, and what is too long for the context whatever its tokens are, before the work."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{param} has a lone surrogate at character {error.start}", param=param) from None
        num_tokens = len(text) // self._max_token_chars
        if num_tokens > self._context_length:
            raise self._too_long(f"your {param} resulted in more than {num_tokens} tokens", param, param)


def param_of(prompt: Prompt) -> str:
    """What the prompt is called in a request."""
    return "messages" if isinstance(prompt, ChatPrompt) else prompt.param


def num_chars(prompt: Prompt) -> int:
    """About how long the prompt is, as a measure of the work; ids are no work."""
    match prompt:
        case TextPrompt(text):
            return len(text)
        case ChatPrompt(turns=turns, template_arguments=arguments):
            return measure((turns, arguments))[1]
        case TokenPrompt():
            return 0
