"""The model's chat template: turns into the text of a prompt. What templates see is what transformers shows them.

A template that does not compile is a `LoadError` at the start; whatever goes wrong in a render is the client's
`InvalidRequest`, since the template was written for other data than it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.clock import Clock
from runtime.errors import InvalidRequest, LoadError
from runtime.text import sandbox

MAX_ARGUMENTS = 64
MAX_ARGUMENT_VALUES = 10_000
MAX_ARGUMENT_CHARS = 2**20
MAX_ERROR_CHARS = 500

RESERVED_ARGUMENTS = frozenset(
    {
        "add_generation_prompt",
        "caller",
        "chat_template",
        "continue_final_message",
        "conversation",
        "dict",
        "kwargs",
        "loop",
        "messages",
        "namespace",
        "raise_exception",
        "range",
        "return_dict",
        "self",
        "strftime_now",
        "tokenize",
        "tools",
        "varargs",
    }
)
"""Names that have a meaning in a template or in transformers' `apply_chat_template`: clients may not set them."""

_END_MARK = "CONTINUE_FINAL_MESSAGE_HERE"


class ChatTemplate:
    """One compiled template, in which `special_tokens` (`bos_token`, …) are variables."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], clock: Clock) -> None:
        """Raises `LoadError` if `source` does not compile."""
        self.source = source
        self._special_tokens = dict(special_tokens)
        try:
            self._template = sandbox.compile_template(source, clock)
        except (*sandbox.TEMPLATE_ERRORS, SyntaxError) as error:
            raise LoadError(f"the chat template does not compile: {_one_line(error)}") from error

    def render(
        self,
        turns: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        continue_final_message: bool,
        tools: Sequence[Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt. `arguments` are the client's own variables. Raises `InvalidRequest`.

        With `continue_final_message` it ends where the content of the last turn ends.
        """
        arguments = arguments or {}
        self._check_arguments(arguments)
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt can not both be true", param="continue_final_message"
            )
        variables = {**self._special_tokens, **arguments, "tools": tools, "add_generation_prompt": add_generation_prompt}
        if not continue_final_message:
            return self._render({**variables, "messages": list(turns)})
        marked = [*turns[:-1], _with_mark(turns[-1] if turns else {})]
        return _cut_at_mark(self._render({**variables, "messages": marked}))

    def _render(self, variables: dict[str, Any]) -> str:
        try:
            return sandbox.render(self._template, variables)
        except sandbox.TEMPLATE_ERRORS as error:
            message = f"the chat template can not render these messages: {_one_line(error)}"
            raise InvalidRequest(message, param="messages") from error

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        for name in arguments:
            if name in RESERVED_ARGUMENTS or name in self._special_tokens or name.startswith("_"):
                raise InvalidRequest(f"chat_template_kwargs may not set {name!r}", param="chat_template_kwargs")
        num_values, num_chars = measure(arguments)
        if len(arguments) > MAX_ARGUMENTS or num_values > MAX_ARGUMENT_VALUES or num_chars > MAX_ARGUMENT_CHARS:
            raise InvalidRequest("chat_template_kwargs is too large", param="chat_template_kwargs")


def measure(value: object) -> tuple[int, int]:
    """Number of values and of characters in plain JSON data, however deep."""
    num_values, num_chars, pending = 0, 0, [value]
    while pending:
        item = pending.pop()
        num_values += 1
        if isinstance(item, str):
            num_chars += len(item)
        elif isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            pending += item
    return num_values, num_chars


def _with_mark(turn: Mapping[str, Any]) -> dict[str, Any]:
    """The turn with a mark behind its content, so that the end of the content can be found in the rendered text.

    The space behind the mark tells whether the template strips the content (as in transformers).
    """
    content = turn.get("content")
    if isinstance(content, str):
        return {**turn, "content": f"{content}{_END_MARK} "}
    parts = list(content) if isinstance(content, list | tuple) else []
    for index in reversed(range(len(parts))):
        part = parts[index]
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            parts[index] = {**part, "text": f"{part['text']}{_END_MARK} "}
            return {**turn, "content": parts}
    raise InvalidRequest("continue_final_message needs a last message with text content", param="continue_final_message")


def _cut_at_mark(rendered: str) -> str:
    before, mark, after = rendered.rpartition(_END_MARK)
    if not mark:
        raise InvalidRequest("the chat template does not show the last message's content", param="continue_final_message")
    return before if after.startswith(" ") else before.rstrip()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_ERROR_CHARS] or type(error).__name__
