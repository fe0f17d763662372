"""The words of the language: what programs are written with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, overload

from frontend import ir
from frontend.choices import ChoicesSamplingMethod, token_length_normalized
from frontend.errors import ProgramError
from frontend.function import Function
from frontend.sampling import Sampling, as_ids, as_stop, type_name
from frontend.schema import as_json_schema
from frontend.settings import global_config, unwrapped


@overload
def function(func: Callable[..., Any], num_api_spec_tokens: int | None = None) -> Function: ...
@overload
def function(func: None = None, num_api_spec_tokens: int | None = None) -> Callable[[Callable[..., Any]], Function]: ...
def function(
    func: Callable[..., Any] | None = None, num_api_spec_tokens: int | None = None
) -> Function | Callable[[Callable[..., Any]], Function]:
    """Make a program of a function whose first parameter is `s`. With or without arguments.

    `num_api_spec_tokens`: ask a paid API for so many tokens at once, and take several generations out of its answer.
    """
    if func is not None:
        return Function(func, num_api_spec_tokens)
    return lambda func: Function(func, num_api_spec_tokens)


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    stop: str | list[str] | None = None,
    stop_token_ids: list[int] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: type | str | None = None,
    choices: Sequence[str] | None = None,
    choices_method: ChoicesSamplingMethod | None = None,
    regex: str | None = None,
    json_schema: Any = None,
    *,
    ebnf: str | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
) -> ir.Expr:
    """Let the model continue; its text becomes the variable `name`. None means: as `run` says.

    With `choices` it is `select`. `dtype` is int, float, bool or str (the value is still text); `json_schema` is JSON text, a
    dict, a pydantic model or a type that msgspec knows. The last three are not SGLang's. Raises `re.error` for a bad `regex`,
    `ProgramError` for a type that can not be generated.
    """
    if choices:
        return select(name, choices, 0.0 if temperature is None else temperature, choices_method or token_length_normalized)
    if regex is not None:
        re.compile(regex)
    if dtype is not None:
        type_name(dtype)
    sampling = Sampling(
        max_new_tokens=max_tokens,
        min_new_tokens=min_tokens,
        stop=as_stop(stop),
        stop_token_ids=as_ids(stop_token_ids),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        ignore_eos=ignore_eos,
        return_logprob=return_logprob,
        logprob_start_len=logprob_start_len,
        top_logprobs_num=top_logprobs_num,
        return_text_in_logprobs=return_text_in_logprobs,
        dtype=dtype,
        regex=regex,
        json_schema=as_json_schema(json_schema),
        ebnf=ebnf,
        repetition_penalty=repetition_penalty,
        sampling_seed=seed,
    )
    return ir.Gen(name, sampling)


class TypedGen:
    """`gen` of a value of one type, without the parameters of `gen` that do not go with one. The positions are SGLang's."""

    def __init__(self, dtype: type) -> None:
        self._dtype = dtype

    def __call__(
        self,
        name: str | None = None,
        max_tokens: int | None = None,
        stop: str | list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        ignore_eos: bool | None = None,
        return_logprob: bool | None = None,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        return_text_in_logprobs: bool | None = None,
    ) -> ir.Expr:
        return gen(
            name,
            max_tokens,
            None,
            stop,
            stop_token_ids,
            temperature,
            top_p,
            top_k,
            min_p,
            frequency_penalty,
            presence_penalty,
            ignore_eos,
            return_logprob,
            logprob_start_len,
            top_logprobs_num,
            return_text_in_logprobs,
            dtype=self._dtype,
        )


gen_int = TypedGen(int)
"""`gen` of a whole number."""
gen_string = TypedGen(str)
"""`gen` of a text in double quotes."""


def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoicesSamplingMethod = token_length_normalized,
) -> ir.Expr:
    """Append the choice that goes on best; it becomes the variable `name`."""
    if not choices or isinstance(choices, str) or not all(isinstance(choice, str) and choice for choice in choices):
        raise ProgramError(f"choices must be a list of texts that are not empty, not {choices!r}")
    return ir.Select(name, tuple(choices), temperature, choices_method)


def image(expr: Any) -> ir.Expr:
    """A picture: a path, the bytes of a file, or a PIL image."""
    return ir.Image(expr)


def video(path: str, num_frames: int) -> ir.Expr:
    """`num_frames` frames of a film, evenly spaced. Needs OpenCV."""
    return ir.Video(path, num_frames)


def separate_reasoning(expr: ir.Expr, model_type: str) -> ir.Expr:
    """Execute `expr`; what a reasoning model thought goes to the variables `<name>_reasoning_content`.

    `model_type` is as in the server's `--reasoning-parser`. A streaming program keeps the thoughts in its text.
    """
    from frontend.reasoning import marks_of

    marks_of(model_type)
    return ir.SeparateReasoning(expr, model_type)


def system(expr: ir.Expr | str | None = None) -> ir.Expr:
    """A turn that tells the model how to behave."""
    return _turn("system", expr)


def user(expr: ir.Expr | str | None = None) -> ir.Expr:
    return _turn("user", expr)


def assistant(expr: ir.Expr | str | None = None) -> ir.Expr:
    """A turn of the model, in which `gen` usually stands."""
    return _turn("assistant", expr)


def system_begin() -> ir.Expr:
    return ir.RoleBegin("system")


def system_end() -> ir.Expr:
    return ir.RoleEnd("system")


def user_begin() -> ir.Expr:
    return ir.RoleBegin("user")


def user_end() -> ir.Expr:
    return ir.RoleEnd("user")


def assistant_begin() -> ir.Expr:
    return ir.RoleBegin("assistant")


def assistant_end() -> ir.Expr:
    return ir.RoleEnd("assistant")


def _turn(role: str, expr: ir.Expr | str | None) -> ir.Expr:
    return ir.Turn(role, None if expr is None else ir.as_expr(expr))


def set_default_backend(backend: Any) -> None:
    """The backend of programs that are run without one."""
    global_config.default_backend = backend


def flush_cache(backend: Any = None) -> Any:
    """Have the server forget all prefixes. False without a backend."""
    found = unwrapped(backend)
    return False if found is None else found.flush_cache()


def get_server_info(backend: Any = None) -> Any:
    """What the server says about itself. None without a backend."""
    found = unwrapped(backend)
    return None if found is None else found.get_server_info()
