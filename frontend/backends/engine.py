"""The backend that is our engine in this process, without HTTP: `Engine(model_path=...)`.

The only file of the language that imports the server, and it is itself imported when `frontend.Engine` is first used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any

from frontend.chat_template import chat_template_from, get_chat_template_by_model_path
from frontend.errors import BackendError
from frontend.loop import shared_loop
from frontend.native_backend import NativeBackend
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


class EngineEndpoint(NativeBackend):
    """Programs' side of an engine."""

    def __init__(self, engine: OfflineEngine) -> None:
        info = engine.get_server_info()
        served = info.get("role_template")
        super().__init__(chat_template_from(served) if served else get_chat_template_by_model_path(info["model_path"]))
        self._engine = engine
        self._model_path = str(info["model_path"])

    def get_model_name(self) -> str:
        return self._model_path

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

    async def _events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        with _as_backend_errors():
            events = await self._engine.async_generate(**_fields(body))
            async with aclosing(events):
                async for event in events:
                    yield event


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
