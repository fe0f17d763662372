"""A small client for `/generate`, so that tests see exact token ids."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson


class GenerateClient:
    """Use as an async context manager."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session: aiohttp.ClientSession

    async def __aenter__(self) -> GenerateClient:
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and decoded reply; `body` is sent as it is if it is bytes."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.session.post(self.url + path, data=data) as response:
            return response.status, orjson.loads(await response.read())

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            return orjson.loads(await response.read())

    async def generate(self, prompt: str | list[int], max_new_tokens: int, **sampling: Any) -> dict[str, Any]:
        """Greedy unless told otherwise. Raises `AssertionError` unless the reply is a 200."""
        field = "text" if isinstance(prompt, str) else "input_ids"
        params = {"max_new_tokens": max_new_tokens, "temperature": 0.0, **sampling}
        status, reply = await self.post("/generate", {field: prompt, "sampling_params": params})
        assert status == 200, reply
        result: dict[str, Any] = reply
        return result

    async def flush(self) -> None:
        async with self.session.post(self.url + "/flush_cache") as response:
            assert response.status == 200, await response.text()

    async def pool(self) -> dict[str, Any]:
        """The KV page counters of `/get_server_info`."""
        info = await self.get("/get_server_info")
        state: dict[str, Any] = info["internal_states"][0]
        return state
