"""Kimi: `◁think▷…◁/think▷`."""

from __future__ import annotations

from runtime.text.parsing.thinking import Thinking

ALIASES: tuple[str, ...] = ()
TEMPLATE_MARKS: tuple[str, ...] = ("◁think▷",)
KEEPS_SPECIAL_TOKENS = True

_THINKING = Thinking("◁think▷", "◁/think▷", starts_inside=False)
read = _THINKING.read
starts_inside = _THINKING.starts_inside
before = _THINKING.before
