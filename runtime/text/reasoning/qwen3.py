"""Qwen3, GLM 4.5 and others that may think or not: `<think>…</think>`."""

from __future__ import annotations

from runtime.text.parsing.thinking import Thinking

ALIASES: tuple[str, ...] = ("glm45",)
TEMPLATE_MARKS: tuple[str, ...] = ("<think>", "enable_thinking")
KEEPS_SPECIAL_TOKENS = False

_THINKING = Thinking("<think>", "</think>", starts_inside=False)
read = _THINKING.read
starts_inside = _THINKING.starts_inside
before = _THINKING.before
