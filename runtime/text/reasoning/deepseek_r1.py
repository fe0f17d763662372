"""DeepSeek R1: `<think>…</think>`; the first tag is in the prompt, or the model leaves it out."""

from __future__ import annotations

from runtime.text.parsing.thinking import Thinking

ALIASES: tuple[str, ...] = ()
TEMPLATE_MARKS: tuple[str, ...] = ("<｜Assistant｜><think>",)
KEEPS_SPECIAL_TOKENS = False

_THINKING = Thinking("<think>", "</think>", starts_inside=True)
read = _THINKING.read
starts_inside = _THINKING.starts_inside
before = _THINKING.before
