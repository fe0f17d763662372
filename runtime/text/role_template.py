"""What stands around each role's turns, read off a chat template by rendering probes: for clients that write chats as text.

Most templates put fixed text before and after each turn; then that text is all that there is to know. Whatever does more
(Llama 2's system turn inside a user turn, thoughts that are dropped from earlier turns) is told by a last probe, a whole
chat put together from what was read: unless it renders to just that, there is no role template.
"""

from __future__ import annotations

import msgspec

from runtime.errors import InvalidRequest
from runtime.text.chat_template import ChatTemplate

SYSTEM, USER, ANSWER, SECOND_USER, SECOND_ANSWER = (f"{word} probe" for word in ("Zero", "First", "Second", "Third", "Fourth"))


class RoleTemplate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`roles` maps `system`, `user` and `assistant` to the text before and after a turn."""

    roles: dict[str, tuple[str, str]]
    default_system_prompt: str | None = None
    stop: tuple[str, ...] = ()


def role_template_of(template: ChatTemplate, bos: str, eos: tuple[str, ...]) -> RoleTemplate | None:
    """None if `template` can not be told by the text around turns. `bos` is left out, since encoding a text adds it."""
    try:
        return _read(_Renderer(template, bos), eos)
    except (InvalidRequest, _NotFixed):
        return None


class _NotFixed(Exception):
    """The text around a turn is not fixed."""


class _Renderer:
    def __init__(self, template: ChatTemplate, bos: str) -> None:
        self._template = template
        self._bos = bos

    def __call__(self, *turns: tuple[str, str], opens_answer: bool = False) -> str:
        """Raises `InvalidRequest` where the template refuses such a chat."""
        messages = [{"role": role, "content": content} for role, content in turns]
        text = self._template.render(messages, opens_answer, False)
        return text.removeprefix(self._bos)


def _read(render: _Renderer, eos: tuple[str, ...]) -> RoleTemplate | None:
    question = ("user", USER)
    asked = render(question)
    answered = render(question, ("assistant", ANSWER))
    asked_again = render(question, ("assistant", ANSWER), ("user", SECOND_USER))
    user = _around(SECOND_USER, _after(answered, asked_again))
    turn = user[0] + USER + user[1]
    if not asked.endswith(turn):
        raise _NotFixed
    system = _around(SYSTEM, _before(turn, render(("system", SYSTEM), question)))
    roles = {"system": system, "user": user, "assistant": _answer(render, asked, answered)}
    default = _default_system(asked.removesuffix(turn), system)
    found = RoleTemplate(roles=roles, default_system_prompt=default, stop=_stops(roles["assistant"][1], eos))
    return found if _tells_all(found, render) else None


def _answer(render: _Renderer, asked: str, answered: str) -> tuple[str, str]:
    """Before an answer stands what asks for it."""
    opening = _after(asked, render(("user", USER), opens_answer=True))
    prefix, suffix = _around(ANSWER, _after(asked, answered))
    if prefix != opening:
        raise _NotFixed
    return prefix, suffix


def _default_system(head: str, system: tuple[str, str]) -> str | None:
    """What a chat without a system turn begins with."""
    if not head:
        return None
    prefix, suffix = system
    if len(head) <= len(prefix) + len(suffix) or not (head.startswith(prefix) and head.endswith(suffix)):
        raise _NotFixed
    return head.removeprefix(prefix).removesuffix(suffix)


def _stops(suffix: str, eos: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(token for token in eos if token and suffix.startswith(token))[:1]


def _tells_all(found: RoleTemplate, render: _Renderer) -> bool:
    chat = (
        ("system", SYSTEM),
        ("user", USER),
        ("assistant", ANSWER),
        ("user", SECOND_USER),
        ("assistant", SECOND_ANSWER),
    )
    return render(*chat) == "".join(found.roles[role][0] + content + found.roles[role][1] for role, content in chat)


def _around(content: str, text: str) -> tuple[str, str]:
    before, found, after = text.partition(content)
    if not found:
        raise _NotFixed
    return before, after


def _after(start: str, text: str) -> str:
    if not text.startswith(start):
        raise _NotFixed
    return text.removeprefix(start)


def _before(end: str, text: str) -> str:
    if not text.endswith(end):
        raise _NotFixed
    return text.removesuffix(end)
