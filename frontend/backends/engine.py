"""The backend that is our engine in this process, without HTTP: `Engine(model_path=...)`.

The only file of the language that imports the server, and it is itself imported when `frontend.Engine` is first used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any

from frontend.backend import Backend, Completion, Prompt, Selection, Usage
from frontend.chat_template import chat_template_from, get_chat_template_by_model_path
from frontend.choices import ChoicesSamplingMethod
from frontend.errors import BackendError
from frontend.loop import shared_loop
from frontend.native import completion_of, generation_body, usage_of, warming_body
from frontend.sampling import Sampling
from frontend.scoring import select
from runtime.engine import Engine as OfflineEngine
from runtime.errors import CallboardError, RequestError


class Engine(OfflineEngine):
    """The offline engine with all its methods, and `endpoint`, by which programs run on it."""

    def __init__(self, **flags: Any) -> None:
        super().__init__(**flags)
        with ExitStack() as undo:
            undo.callback(self.shutdown)
            self.endpoint = EngineEndpoint(self)
            undo.pop_all()


class EngineEndpoint(Backend):
    """Programs' side of an engine."""

    def __init__(self, engine: OfflineEngine) -> None:
        info = engine.get_server_info()
        served = info.get("role_template")
        super().__init__(chat_template_from(served) if served else get_chat_template_by_model_path(info["model_path"]))
        self._engine = engine
        self._model_path = str(info["model_path"])

    def get_model_name(self) -> str:
        return self._model_path

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        return completion_of(await self._generate(generation_body(prompt, sampling)))

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Completion, None]:
        num_chars = 0
        with _as_backend_errors():
            events = await self._engine.async_generate(**_fields(generation_body(prompt, sampling, is_streaming=True)))
            async with aclosing(events):
                async for event in events:
                    piece = completion_of(event, num_chars)
                    num_chars += len(piece.text)
                    yield piece

    async def select(self, prompt: Prompt, choices: list[str], temperature: float, method: ChoicesSamplingMethod) -> Selection:
        return await select(self._generate, prompt, choices, temperature, method)

    async def warm(self, prompt: Prompt) -> Usage:
        return usage_of(await self._generate(warming_body(prompt)))

    def flush_cache(self) -> None:
        shared_loop().check_may_wait()
        self._engine.flush_cache()

    def get_server_info(self) -> Any:
        return self._engine.get_server_info()

    def shutdown(self) -> None:
        self._engine.shutdown()

    async def _generate(self, body: dict[str, Any]) -> Any:
        with _as_backend_errors():
            return await self._engine.async_generate(**_fields(body))


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    fields = dict(body)
    return {"prompt": fields.pop("text", None), **fields}


@contextmanager
def _as_backend_errors() -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise BackendError(error.failure.message, status=error.failure.status) from error
    except CallboardError as error:
        raise BackendError(str(error)) from error
