"""The description of the API: true to the routes, and readable without anything from elsewhere."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.http.door import Door, open_door


def run(test: Any) -> None:
    async def main() -> None:
        async with open_door() as door:
            await test(door)

    asyncio.run(main())


def refs_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(refs_in, value.values()))
    return set().union(*map(refs_in, value)) if isinstance(value, list) else set()


def test_it_has_every_route_and_every_type_that_it_names() -> None:
    async def test(door: Door) -> None:
        assert door.runner.app is not None
        api = (await door.get("/openapi.json")).json
        routes = {
            (re.sub(r":[^}]*}", "}", route.resource.canonical), route.method.lower())
            for route in door.runner.app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
        assert {(path, method) for path, methods in api["paths"].items() for method in methods} == routes
        names = {ref.removeprefix("#/components/schemas/") for ref in refs_in(api)}
        assert names <= set(api["components"]["schemas"])
        assert {"GenerateRequest", "NativeSampling", "ChatCompletionRequest", "ErrorReply"} <= names
        operations = [operation for methods in api["paths"].values() for operation in methods.values()]
        assert len({operation["operationId"] for operation in operations}) == len(operations)
        for operation in operations:
            assert operation["summary"]
            assert {"200", "400", "401", "500", "503"} <= set(operation["responses"])

    run(test)


def test_bodies_are_described_field_by_field() -> None:
    async def test(door: Door) -> None:
        api = (await door.get("/openapi.json")).json
        schemas = api["components"]["schemas"]
        generate = schemas["GenerateRequest"]
        assert generate["additionalProperties"] is False
        assert {"type": "string", "minLength": 1} in generate["properties"]["text"]["anyOf"]
        assert schemas["NativeSampling"]["properties"]["max_new_tokens"]["default"] == 128
        operation = api["paths"]["/update_weights_from_disk"]["post"]
        assert {"403", "413"} <= set(operation["responses"])
        reply = api["paths"]["/generate"]["post"]["responses"]["200"]["content"]
        assert reply["text/event-stream"]["schema"]["required"] == ["data"]

    run(test)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    async def test(door: Door) -> None:
        page = (await door.get("/docs")).body.decode()
        assert "openapi.json" in page
        assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)

    run(test)


def test_every_handler_with_a_body_is_described() -> None:
    """A route that is only in `ROUTES` would be described as one without a body."""

    async def test(door: Door) -> None:
        api = (await door.get("/openapi.json")).json
        bodiless = {
            path for path, methods in api["paths"].items() if "post" in methods and "requestBody" not in methods["post"]
        }
        assert {path for path in bodiless if not path.startswith("/v1/")} <= {
            "/flush_cache",
            "/encode",
            "/classify",
            "/load_lora_adapter",
            "/unload_lora_adapter",
            "/init_weights_update_group",
            "/destroy_weights_update_group",
            "/update_weights_from_distributed",
            "/update_weights_from_tensor",
            "/update_weights_from_ipc",
        }

    run(test)
