"""The backend that is our server, or SGLang's, over HTTP: `RuntimeEndpoint("http://127.0.0.1:30000")`.

All requests of all programs run on the shared loop, over connections that are used again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from frontend.chat_template import ChatTemplate, chat_template_from, get_chat_template, get_chat_template_by_model_path
from frontend.connection import Connection
from frontend.errors import BackendError
from frontend.loop import shared_loop
from frontend.native_backend import NativeBackend
from frontend.retry import Retry

NOT_FOUND = 404


class RuntimeEndpoint(NativeBackend):
    """A server that speaks `/generate`. Refusals because it is overloaded are tried again, after `retry`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: str | None = None,
        chat_template_name: str | None = None,
        *,
        retry: Retry | None = None,
    ) -> None:
        """Asks the server for its model. Raises `BackendError` if it does not answer.

        Without a name the chat template is the one that the server gives; a server of SGLang's gives none, and then the
        model's path decides.
        """
        super().__init__()
        self.base_url = base_url
        self._connection = Connection(base_url, api_key, verify)
        self._retry = retry or Retry()
        self.model_info: dict[str, Any] = shared_loop().run(self._connection.get("/get_model_info"))
        if chat_template_name:
            self.chat_template = get_chat_template(chat_template_name)
        else:
            self.chat_template = shared_loop().run(self._served_template())

    def get_model_name(self) -> str:
        return str(self.model_info["model_path"])

    async def flush(self) -> None:
        await self._connection.tell("/flush_cache")

    async def server_info(self) -> Any:
        return await self._connection.get("/get_server_info")

    async def close(self) -> None:
        await self._connection.close()

    async def _generate(self, body: dict[str, Any]) -> Any:
        return await self._retry.call(partial(self._connection.post, "/generate", body))

    def _events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        return self._connection.events("/generate", body)

    async def _served_template(self) -> ChatTemplate:
        """The facts of the server have it, if the server is ours and the model's template can be told in that form."""
        try:
            served = (await self.server_info()).get("role_template")
        except BackendError as error:
            if error.status != NOT_FOUND:
                raise
            served = None
        return chat_template_from(served) if served else get_chat_template_by_model_path(self.get_model_name())
