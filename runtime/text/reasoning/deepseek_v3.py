"""DeepSeek V3.1: `<think>…</think>`, when the client asks for thinking; the prompt has the first tag."""

from __future__ import annotations

from runtime.text.parsing.thinking import Thinking

ALIASES: tuple[str, ...] = ("deepseek_v31",)
TEMPLATE_MARKS: tuple[str, ...] = ("<｜Assistant｜>", "</think>", "thinking")
KEEPS_SPECIAL_TOKENS = False

_THINKING = Thinking("<think>", "</think>", starts_inside=False)
read = _THINKING.read
starts_inside = _THINKING.starts_inside
before = _THINKING.before
