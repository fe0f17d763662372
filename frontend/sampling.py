"""How text is sampled: what `run` says for the whole program, what `gen` says for one generation, and the two together."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace

from frontend.errors import ProgramError
from frontend.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_STR

TYPED = {"int": REGEX_INT, "float": REGEX_FLOAT, "str": REGEX_STR, "bool": REGEX_BOOL}
NUMBER_ENDS = (" ", "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """None means: not said here. The names are those of `/generate`; `dtype` is a type or its name."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    ignore_eos: bool | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None
    dtype: type | str | None = None
    regex: str | None = None
    json_schema: str | None = None

    ebnf: str | None = None
    repetition_penalty: float | None = None
    sampling_seed: int | None = None
    """The last three are not SGLang's; backends that do not know them refuse them."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple, however they were given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def over(self, other: Sampling) -> Sampling:
        """`other`, with what is said here in its place."""
        said = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(other, **said)

    def stopping_at(self, strings: tuple[str, ...]) -> Sampling:
        """Also stops at `strings`."""
        return replace(self, stop=self.stops + strings) if strings else self


DEFAULTS = Sampling(
    max_new_tokens=128,
    min_new_tokens=0,
    stop=(),
    stop_token_ids=(),
    temperature=1.0,
    top_p=1.0,
    top_k=-1,
    min_p=0.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    ignore_eos=False,
)


def as_stop(stop: str | list[str] | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    return stop if stop is None or isinstance(stop, str) else tuple(stop)


def as_ids(token_ids: list[int] | tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if token_ids is None else tuple(token_ids)


def type_name(dtype: type | str) -> str:
    """`int`, `float`, `str` or `bool`. Raises `ProgramError` for another type."""
    name = dtype if isinstance(dtype, str) else dtype.__name__
    if name not in TYPED:
        raise ProgramError(f"dtype must be one of {', '.join(TYPED)}, not {name}")
    return name


def typed_as_regex(sampling: Sampling) -> Sampling:
    """For backends that constrain by regular expression: `dtype` said as `regex`. A number also ends at white space."""
    if sampling.dtype is None:
        return sampling
    name = type_name(sampling.dtype)
    if sampling.regex is not None:
        warnings.warn(f"dtype {name} and a regex are both given: the regex is not used", stacklevel=2)
    typed = replace(sampling, dtype=None, regex=TYPED[name])
    return typed.stopping_at(NUMBER_ENDS) if name in ("int", "float") else typed
