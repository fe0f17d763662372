"""The text of a running program, or one of its variables, as a sequence of pieces."""

from __future__ import annotations

from typing import Any

from frontend.interpreter import Interpreter


class TextStream:
    """Remembers how far it was read. Look at `is_complete` before `take`: text that comes in between is not missed then."""

    def __init__(self, interpreter: Interpreter, name: str | None) -> None:
        self._interpreter = interpreter
        self._name = name
        self._position = 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come."""
        if self._interpreter.is_finished:
            return True
        return self._name is not None and self._is_set

    def take(self) -> tuple[str, Any]:
        """What is new, and the meta information of the generation so far."""
        record = self._interpreter.record
        text = record.text if self._name is None else record.variables.get(self._name, "")
        piece, self._position = text[self._position :], len(text)
        return piece, record.meta_info.get(self._name)

    @property
    def _is_set(self) -> bool:
        return self._name in self._interpreter.record.variables and not self._interpreter.is_unset(self._name)
