"""What a program has said so far: text, chat messages, variables. A synchronous value; only its interpreter changes it.

The text is the truth: messages are cut out of it when a turn ends, and spans point into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from frontend.backend import Prompt
from frontend.chat_template import ChatTemplate, Message
from frontend.errors import ProgramError


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the text that a role said (`kind` is the role) or the model generated (`kind` is "generated")."""

    kind: str
    name: str | None
    start: int
    end: int


class Record:
    """`variables` may be read from any thread; a value in it is whole but for a generation that is being streamed."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.text = ""
        self.messages: list[Message] = []
        self.variables: dict[Any, Any] = {}
        self.meta_info: dict[Any, dict[str, Any] | None] = {}
        self.spans: list[Span] = []
        self.images: list[str] = []
        self.forked_at = 0
        """Length of the text that a fork got from its parent."""
        self._role: str | None = None
        self._role_start = 0
        self._num_images_before_role = 0
        self._scope_starts: dict[str, int] = {}

    # -- what the model is asked with ------------------------------------------------------------------------------------

    @property
    def role(self) -> str | None:
        return self._role

    def prompt(self) -> Prompt:
        return Prompt(
            text=self.text,
            messages=tuple(self.messages),
            role=self._role,
            turn_text="" if self._role is None else self.text[self._role_start :],
            images=tuple(self.images),
        )

    # -- what expressions do ---------------------------------------------------------------------------------------------

    def fill(self, text: str) -> None:
        self.text += text

    def add_image(self, data: str) -> None:
        """`data` in base64."""
        self.images.append(data)
        self.fill(self.template.image_token)

    def begin_role(self, role: str) -> None:
        """Raises `ProgramError` inside another turn."""
        if self._role is not None:
            raise ProgramError(f"a {role} turn can not begin inside a {self._role} turn: nested roles are not allowed")
        default = self.template.default_system_prompt
        if not self.messages and role != "system" and default:
            self.begin_role("system")
            self.fill(default)
            self.end_role("system")
        self.fill(self.template.get_prefix_and_suffix(role, self.messages)[0])
        self._role, self._role_start, self._num_images_before_role = role, len(self.text), len(self.images)

    def end_role(self, role: str) -> None:
        """Raises `ProgramError` if another turn, or none, is open."""
        if self._role != role:
            raise ProgramError(f"a {role} turn ends, but {'no' if self._role is None else f'a {self._role}'} turn is open")
        content = self.text[self._role_start :].lstrip()
        self.spans.append(Span(role, None, self._role_start, len(self.text)))
        self.fill(self.template.get_prefix_and_suffix(role, self.messages)[1])
        self.messages.append({"role": role, "content": self._with_images(content)})
        self._role = None

    def begin_scope(self, name: str) -> None:
        self._scope_starts[name] = len(self.text)

    def end_scope(self, name: str) -> None:
        self.variables[name] = self.text[self._scope_starts.pop(name) :]

    def generated(self, name: str | None, text: str, meta_info: dict[str, Any] | None) -> None:
        """A whole generation or selection."""
        start = len(self.text)
        self.fill(text)
        self.variables[name], self.meta_info[name] = text, meta_info
        self.spans.append(Span("generated", name, start, len(self.text)))

    def begin_stream(self, name: str | None) -> None:
        self.variables[name] = ""
        self.spans.append(Span("generated", name, len(self.text), len(self.text)))

    def extend_stream(self, name: str | None, piece: str, meta_info: dict[str, Any] | None) -> None:
        self.fill(piece)
        self.variables[name] += piece
        self.meta_info[name] = meta_info
        self.spans[-1] = Span("generated", name, self.spans[-1].start, len(self.text))

    def replace_tail(self, start: int, text: str) -> None:
        """Say `text` instead of all from `start` on."""
        self.text = self.text[:start] + text
        self.spans = [span for span in self.spans if span.end <= start]

    # -- forks -----------------------------------------------------------------------------------------------------------

    def clone(self) -> Record:
        copy = Record(self.template)
        copy.text, copy.messages, copy.images = self.text, list(self.messages), list(self.images)
        copy.variables, copy.meta_info, copy.spans = dict(self.variables), dict(self.meta_info), list(self.spans)
        copy.forked_at = len(self.text)
        copy._role, copy._role_start = self._role, self._role_start
        copy._num_images_before_role, copy._scope_starts = self._num_images_before_role, dict(self._scope_starts)
        return copy

    def new_variables(self, since: Record) -> Iterator[str]:
        """Names that are set here and not in `since`."""
        return (name for name in self.variables if name not in since.variables)

    @property
    def new_text(self) -> str:
        """What was said since the fork."""
        return self.text[self.forked_at :]

    def _with_images(self, content: str) -> str | list[dict[str, Any]]:
        images = self.images[self._num_images_before_role :]
        if not images:
            return content
        urls = [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}} for data in images]
        return [{"type": "text", "text": content}, *urls]
