"""Chat templates as data: what stands before and after the text of each role. The table is `chat_templates.json`.

The first rule whose words are all in the lower-cased model path, and whose `without` words are not, gives the template, as
in SGLang 0.4.3. A server of ours says itself which template its model has.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from frontend.errors import ProgramError

Message = dict[str, Any]
"""A turn in OpenAI's form: `role` and `content`, which is text or a list of parts."""


@dataclass(frozen=True)
class ChatTemplate:
    """`role_prefix_and_suffix` maps a role to the text around its turns; a role that is not there has none."""

    name: str
    role_prefix_and_suffix: Mapping[str, tuple[str, str]]
    default_system_prompt: str | None = None
    """Said by a system turn that is put before a chat which begins with another role."""
    stop_str: tuple[str, ...] = ()
    """Also end every generation."""
    image_token: str = "<image>"
    system_in_first_user_turn: bool = field(default=False)
    """Llama 2: the system turn stands inside the first user turn."""

    def get_prefix_and_suffix(self, role: str, messages: Sequence[Message]) -> tuple[str, str]:
        """The text around a turn of `role` that comes after `messages`."""
        prefix, suffix = self.role_prefix_and_suffix.get(role, ("", ""))
        if not self.system_in_first_user_turn:
            return prefix, suffix
        if role == "system" and not messages:
            return self.role_prefix_and_suffix["user"][0] + prefix, suffix
        if role == "user" and len(messages) == 1 and messages[0]["content"] is not None:
            return "", suffix
        return prefix, suffix

    def get_prompt(self, messages: Sequence[Message]) -> str:
        """The text of a whole chat. A system turn whose content is None says the default."""
        prompt = ""
        for index, message in enumerate(messages):
            content = message["content"]
            if message["role"] == "system" and content is None:
                content = self.default_system_prompt
                if content is None:
                    continue
            prefix, suffix = self.get_prefix_and_suffix(message["role"], messages[:index])
            prompt += f"{prefix}{content}{suffix}"
        return prompt


@dataclass(frozen=True)
class Rule:
    """A model whose path contains all of one and none of the other has `template`."""

    template: str
    contains: tuple[str, ...]
    without: tuple[str, ...] = ()

    def matches(self, model_path: str) -> bool:
        return all(word in model_path for word in self.contains) and not any(word in model_path for word in self.without)


def get_chat_template(name: str) -> ChatTemplate:
    """Raises `ProgramError` that lists the names."""
    templates = _templates()
    if name not in templates:
        raise ProgramError(f"no chat template is called {name!r}: choose one of {', '.join(templates)}")
    return templates[name]


def get_chat_template_by_model_path(model_path: str) -> ChatTemplate:
    lowered = model_path.lower()
    return get_chat_template(next((rule.template for rule in _rules() if rule.matches(lowered)), "default"))


def chat_template_from(data: Mapping[str, Any]) -> ChatTemplate:
    """From a row of the table, or from what a server says about its model."""
    return ChatTemplate(
        name=data.get("name", "served"),
        role_prefix_and_suffix={role: (prefix, suffix) for role, (prefix, suffix) in data["roles"].items()},
        default_system_prompt=data.get("default_system_prompt"),
        stop_str=tuple(data.get("stop", ())),
        image_token=data.get("image_token", "<image>"),
        system_in_first_user_turn=data.get("system_in_first_user_turn", False),
    )


@functools.cache
def _table() -> Any:
    return json.loads(resources.files("frontend").joinpath("chat_templates.json").read_text(encoding="utf-8"))


@functools.cache
def _templates() -> dict[str, ChatTemplate]:
    return {row["name"]: chat_template_from(row) for row in _table()["templates"]}


@functools.cache
def _rules() -> tuple[Rule, ...]:
    return tuple(Rule(row["template"], tuple(row["contains"]), tuple(row.get("without", ()))) for row in _table()["rules"])
