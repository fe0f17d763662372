"""What holds for all programs of the process until somebody changes it: SGLang's `global_config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frontend.errors import ProgramError


@dataclass
class GlobalConfig:
    """Set its attributes to change them."""

    verbosity: int = 0
    """2 prints the text of every finished program."""
    default_backend: Any = None
    skip_special_tokens_in_output: bool = True
    spaces_between_special_tokens_in_out: bool = True
    enable_precache_with_tracing: bool = True
    """Whether `run_batch` computes the programs' common prefix before it runs them."""
    enable_parallel_encoding: bool = True
    """For programs that set it. Forks are always joined by their text, whose prefix the server has cached."""


global_config = GlobalConfig()


def unwrapped(backend: Any) -> Any:
    """The backend itself, of a `Runtime` or an `Engine`; the default one for None. May be None."""
    backend = global_config.default_backend if backend is None else backend
    return getattr(backend, "endpoint", backend)


def chosen(backend: Any) -> Any:
    """As `unwrapped`, but raises `ProgramError` if there is none."""
    found = unwrapped(backend)
    if found is None:
        raise ProgramError("no backend: give one, or call set_default_backend first")
    return found
