"""Speculative API execution: one call of a paid API for several generations that follow each other.

A completion model is asked for more than the generation needs; as long as the program goes on as the model did, the next
generations are cut out of what is left. A chat model is asked once for a whole assistant turn, whose text is then matched
against the turn's constant text and the stop strings of its generations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from frontend.backend import Backend, Completion, Prompt, Usage
from frontend.errors import ProgramError, SpeculationFailed
from frontend.sampling import Sampling

NUM_TRIES = 3


class SpeculatedText:
    """What a completion model said beyond the last generation."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._text = ""

    def skip(self, text: str) -> None:
        """The program says `text`: either the model said so too, or all it said is worthless."""
        self._text = self._text[len(text) :] if self._text.startswith(text) else ""

    async def generate(self, backend: Backend, prompt: Prompt, sampling: Sampling) -> Completion:
        """A generation without a stop string has no end that could be found, and is asked for as it is."""
        if not sampling.stops:
            self._text = ""
            return await backend.generate(prompt, sampling)
        end = first_stop(self._text, sampling.stops)
        asked = Completion("")
        if end is None:
            asked = await backend.generate(prompt, self._longer(sampling))
            self._text = asked.text
            end = first_stop(self._text, sampling.stops)
        end = len(self._text) if end is None else end
        text, self._text = self._text[:end], self._text[end:]
        return replace(asked, text=text)

    def _longer(self, sampling: Sampling) -> Sampling:
        return replace(sampling, stop=None, max_new_tokens=max(sampling.max_new_tokens or 0, self._num_tokens))


@dataclass(frozen=True)
class Constant:
    """A part of a turn that the program says."""

    text: str


@dataclass(frozen=True)
class Generated:
    """A part of a turn that the model says; it ends before the first of `stops`."""

    name: str | None
    stops: tuple[str, ...]


Part = Constant | Generated


class SpeculatedTurn:
    """An assistant turn that is generated as a whole when it ends."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._parts: list[Part] = []
        self._sampling: Sampling | None = None

    @property
    def has_generations(self) -> bool:
        return self._sampling is not None

    def add_text(self, text: str) -> None:
        self._parts.append(Constant(text))

    def add_generation(self, name: str | None, sampling: Sampling) -> None:
        """Raises `ProgramError` if it is sampled differently than the turn's other generations."""
        common = replace(sampling, stop=None, max_new_tokens=self._num_tokens)
        if self._sampling is not None and self._sampling != common:
            raise ProgramError("all generations of a turn with num_api_spec_tokens must be sampled in the same way")
        self._sampling = common
        self._parts.append(Generated(name, sampling.stops))

    async def generate(self, backend: Backend, prompt: Prompt) -> list[tuple[Part, Completion]]:
        """The parts with their text. Raises `SpeculationFailed` after some tries."""
        if self._sampling is None:
            return self._completions("".join(part.text for part in self._parts if isinstance(part, Constant)), Completion(""))
        usage = Usage()
        for _ in range(NUM_TRIES):
            completion = await backend.generate(prompt, self._sampling)
            usage += completion.usage
            found = self._completions(completion.text, replace(completion, usage=usage))
            if found:
                return found
        raise SpeculationFailed(f"in {NUM_TRIES} tries the model never answered in the form of the turn")

    def _completions(self, text: str, asked: Completion) -> list[tuple[Part, Completion]]:
        """Empty if `text` does not have the turn's form. The usage is that of the first generation."""
        completions: list[tuple[Part, Completion]] = []
        usage = asked.usage
        for part, piece in zip(self._parts, matched(self._parts, text) or (), strict=False):
            if isinstance(part, Constant):
                completions.append((part, Completion(piece)))
            else:
                completions.append((part, Completion(piece, asked.meta_info, usage)))
                usage = Usage()
        return completions


def matched(parts: Sequence[Part], text: str) -> list[str] | None:
    """The text of each part, or None where `text` does not have their form. A generation at the end takes what is left."""
    pieces = []
    for index, part in enumerate(parts):
        end = _end_of(part, text)
        if end is None and isinstance(part, Generated) and index == len(parts) - 1:
            end = len(text)
        if end is None:
            return None
        pieces.append(text[:end])
        text = text[end:]
    return pieces


def _end_of(part: Part, text: str) -> int | None:
    if isinstance(part, Generated):
        return first_stop(text, part.stops)
    return len(part.text) if text.startswith(part.text) else None


def first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the first of the stop strings begins."""
    found = [position for stop in stops if (position := text.find(stop)) != -1]
    return min(found, default=None)
