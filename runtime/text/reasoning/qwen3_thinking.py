"""The thinking models of Qwen3: `<think>…</think>`, of which the prompt has the first tag."""

from __future__ import annotations

from runtime.text.parsing.thinking import Thinking

ALIASES: tuple[str, ...] = ()
TEMPLATE_MARKS: tuple[str, ...] = ("<|im_start|>assistant\\n<think>\\n",)
KEEPS_SPECIAL_TOKENS = False

_THINKING = Thinking("<think>", "</think>", starts_inside=True)
read = _THINKING.read
starts_inside = _THINKING.starts_inside
before = _THINKING.before
