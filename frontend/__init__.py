"""The language: programs of generation calls, for our server and for other models behind an API.

Names and defaults are those of SGLang's frontend; `import frontend as sgl` is the only line of its programs to change.
Importing this costs little: what a backend needs is imported with it. A backend is a file of `frontend/backends/` with a class
of the same name, and is a name of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frontend.api import (
    assistant,
    assistant_begin,
    assistant_end,
    flush_cache,
    function,
    gen,
    gen_int,
    gen_string,
    get_server_info,
    image,
    select,
    separate_reasoning,
    set_default_backend,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
    video,
)
from frontend.choices import greedy_token_selection, token_length_normalized, unconditional_likelihood_normalized
from frontend.settings import global_config

if TYPE_CHECKING:
    from frontend.backends.anthropic import Anthropic
    from frontend.backends.engine import Engine
    from frontend.backends.gemini import Gemini
    from frontend.backends.litellm import LiteLLM
    from frontend.backends.openai import OpenAI
    from frontend.backends.runtime_endpoint import RuntimeEndpoint
    from frontend.backends.vertex_ai import VertexAI
    from frontend.runtime import Runtime
    from frontend.state import ProgramState

__version__ = "0.1.0"

__all__ = [
    "Anthropic",
    "Engine",
    "Gemini",
    "LiteLLM",
    "OpenAI",
    "ProgramState",
    "Runtime",
    "RuntimeEndpoint",
    "VertexAI",
    "__version__",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "global_config",
    "greedy_token_selection",
    "image",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
]


def __getattr__(name: str) -> Any:
    """Names whose module is imported when they are first used."""
    if name == "ProgramState":
        from frontend.state import ProgramState

        return ProgramState
    if name == "Runtime":
        from frontend.runtime import Runtime

        return Runtime
    from frontend.backends import find

    found = None if name.startswith("_") else find(name)
    if found is None:
        raise AttributeError(f"module 'frontend' has no attribute {name!r}")
    return found
