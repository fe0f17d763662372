"""The text around turns, read off templates that models ship; what can not be told in that way is not told."""

from __future__ import annotations

import pytest

from runtime.clock import SystemClock
from runtime.text.chat_template import ChatTemplate
from runtime.text.role_template import RoleTemplate, role_template_of
from tests.text.templates import CHATML, LLAMA3, SMOLLM2, TEMPLATES

ENDS = ("<|endoftext|>", "<|im_end|>")
THOUGHTS = CHATML.replace("message['content'] +", "message['content'].split('</think>')[-1] + ('' if loop.last else ' ') +")
BOS = "<s>"


def read(source: str) -> RoleTemplate | None:
    return role_template_of(ChatTemplate(source, {"bos_token": BOS}, SystemClock()), BOS, ENDS)


@pytest.mark.parametrize(
    ("source", "default"),
    [
        (CHATML, None),
        (SMOLLM2, "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        ("{{ bos_token }}" + CHATML, None),
    ],
)
def test_fixed_text_is_read(source: str, default: str | None) -> None:
    found = read(source)
    assert found == RoleTemplate(
        roles={role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")},
        default_system_prompt=default,
        stop=("<|im_end|>",),
    )


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_what_is_read_says_what_the_template_says(name: str) -> None:
    """Chats that the reader never saw."""
    template = ChatTemplate(TEMPLATES[name], {"bos_token": BOS}, SystemClock())
    found = role_template_of(template, BOS, ENDS)
    if found is None:
        assert name not in ("chatml", "smollm2")
        return
    turns = [("system", "Be terse."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]
    rendered = template.render([{"role": role, "content": content} for role, content in turns], True, False)
    said = "".join(found.roles[role][0] + content + found.roles[role][1] for role, content in turns)
    assert rendered.removeprefix(BOS) == said + found.roles["assistant"][0]


@pytest.mark.parametrize(
    "source", [LLAMA3, THOUGHTS, "{{ messages[0].content }}", "no turns at all", "{{ raise_exception('no') }}"]
)
def test_what_is_not_fixed_is_not_told(source: str) -> None:
    assert read(source) is None
