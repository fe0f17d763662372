"""Tells what a reasoning model thought from what it answered, in the text of finished generations."""

from __future__ import annotations

from dataclasses import dataclass

from frontend import ir
from frontend.errors import ProgramError
from frontend.record import Record


@dataclass(frozen=True)
class Marks:
    """What stands around a thought; `is_implied` if the model thinks from the start, with or without the first mark."""

    begin: str
    end: str
    is_implied: bool = False


MARKS = {
    "deepseek-r1": Marks("<think>", "</think>", is_implied=True),
    "deepseek-v3": Marks("<think>", "</think>"),
    "glm45": Marks("<think>", "</think>"),
    "kimi": Marks("◁think▷", "◁/think▷"),
    "qwen3": Marks("<think>", "</think>"),
    "qwen3-thinking": Marks("<think>", "</think>", is_implied=True),
    "step3": Marks("<think>", "</think>", is_implied=True),
}


def marks_of(model_type: str) -> Marks:
    """Raises `ProgramError` that lists the types."""
    if model_type.lower() not in MARKS:
        raise ProgramError(f"no model type {model_type!r} for separate_reasoning: choose one of {', '.join(MARKS)}")
    return MARKS[model_type.lower()]


def split(text: str, marks: Marks) -> tuple[str, str]:
    """The thought and the answer. A thought that was cut off has no answer."""
    if not marks.is_implied and marks.begin not in text:
        return "", text
    thought, _, answer = text.replace(marks.begin, "", 1).partition(marks.end)
    return thought.strip(), answer.strip()


def separated(record: Record, expr: ir.SeparateReasoning, start: int) -> None:
    """Everything from `start` on was said by `expr`: leave the thoughts out of it, and set `<name>_reasoning_content`."""
    marks = marks_of(expr.model_type)
    names = [gen.name for gen in ir.walk(expr.body) if isinstance(gen, ir.Gen)]
    text = record.text[start:]
    for name in names:
        thought, answer = split(record.variables[name], marks)
        text = text.replace(record.variables[name], answer, 1)
        record.variables[name] = answer
        record.variables[f"{name}_reasoning_content"] = thought
    record.replace_tail(start, text)
