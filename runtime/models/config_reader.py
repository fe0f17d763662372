"""A model's config.json read with suspicion: every value has its type and range checked, since it sizes what is allocated.

Keys may be absent where the model's class in transformers has a default, which the family knows. null means absent, except
where a family asks for the difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from runtime.errors import LoadError

MAX_SIZE = 2**24
"""Largest width, vocabulary and context that is believed."""
MAX_LAYERS = 4096


class ConfigReader:
    """Checked access to one JSON object; `defaults` stand for keys that are absent."""

    def __init__(
        self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, *, name: str = "config.json"
    ) -> None:
        self._config = config
        self._defaults = defaults or {}
        self._name = name

    def fail(self, key: str, expected: str) -> NoReturn:
        raise LoadError(f"{self._name}: {key!r} must be {expected}, not {self._value(key)!r:.60}")

    def has(self, key: str) -> bool:
        """Whether the file itself names the key, be it with null."""
        return key in self._config

    def size(self, key: str, *, high: int = MAX_SIZE) -> int:
        """An integer from 1 to `high`."""
        value = self._value(key)
        if type(value) is not int or not 1 <= value <= high:
            self.fail(key, f"an integer from 1 to {high}")
        return value

    def optional_size(self, key: str) -> int | None:
        return None if self._value(key) is None else self.size(key)

    def number(self, key: str, *, low: float = 0.0) -> float:
        """A finite number above `low`."""
        value = self._value(key)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= low:
            self.fail(key, f"a number above {low:g}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self._value(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """A boolean; absent is false."""
        value = self._value(key)
        if value is None:
            return False
        if type(value) is not bool:
            self.fail(key, "true or false")
        return value

    def text(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str):
            self.fail(key, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of strings, or None."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(key, "a list of strings")
        return tuple(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of positive finite numbers; absent is empty."""
        value = self._value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(type(item) in (int, float) and 0 < item < math.inf for item in value):
            self.fail(key, "a list of positive numbers")
        return tuple(value)

    def indices(self, key: str) -> frozenset[int]:
        """A list of integers from 0 on; absent is empty."""
        value = self._value(key)
        if value is None:
            return frozenset()
        if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
            self.fail(key, "a list of indices")
        return frozenset(value)

    def branch(self, key: str) -> Mapping[str, Any] | None:
        """A JSON object, or None."""
        value = self._value(key)
        if value is not None and not isinstance(value, Mapping):
            self.fail(key, "an object")
        return value

    def _value(self, key: str) -> Any:
        value = self._config.get(key)
        return self._defaults.get(key) if value is None else value
