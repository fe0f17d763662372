"""What happens around every endpoint: request ids, CORS, the API key and the error envelope.

Unexpected exceptions are not caught here. They go on to the connection (connection.py), which is the one place that turns them
into a 500.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from runtime.errors import BodyTooLarge, Failure, InvalidRequest, MethodNotAllowed, NotFound, RequestError, Unauthorized
from runtime.http.keys import is_key
from runtime.http.responses import error_response
from runtime.http.service import REQUEST_ID, SERVICE

PUBLIC_PATHS = frozenset({"/health", "/health_generate", "/ready", "/livez", "/ping"})
"""Open without an API key. The route that matched decides, not the text of the URL."""

CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "*",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Expose-Headers": "*",
}


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Just before a response is sent."""
    put_headers(response, _request_id(request))


def put_headers(response: web.StreamResponse, request_id: str) -> None:
    """The headers that every response has."""
    response.headers.update(CORS_HEADERS)
    response.headers["Server"] = "callboard"
    response.headers["x-request-id"] = request_id


async def check_expectation(request: web.Request) -> web.StreamResponse | None:
    """Before the body of a request that has an `Expect` header: ask for it, or refuse it unsent."""
    if (request.content_length or 0) > request.client_max_size:
        failure = BodyTooLarge(f"the body is larger than {request.client_max_size} bytes").failure
        return error_response(failure, request.path)
    return await ask_for_body(request)


async def ask_for_body(request: web.Request) -> web.StreamResponse | None:
    """Likewise, where the size of a body is checked as it comes."""
    if request.headers["Expect"].lower() != "100-continue":
        failure = Failure(status=417, type=InvalidRequest.type, message="the Expect header must be 100-continue")
        return error_response(failure, request.path)
    assert request.transport is not None, "a connection that is gone has no handler"
    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: give the request its id, and answer what ends it with the envelope."""
    _request_id(request)
    try:
        return await handler(request)
    except RequestError as error:
        return error_response(error.failure, request.path)
    except web.HTTPException as error:
        response = error_response(_failure(error), request.path)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


def _request_id(request: web.Request) -> str:
    """Given on first sight: a request that is refused before the middlewares needs one too."""
    if REQUEST_ID not in request:
        request[REQUEST_ID] = request.app[SERVICE].new_request_id()
    return request[REQUEST_ID]


@web.middleware
async def answer_preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Browsers ask with OPTIONS, and without a key, whether they may send the real request."""
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)


def require_key(*api_keys: str) -> Middleware:
    """A middleware that lets only requests with `Authorization: Bearer <one of them>` through, and those for public paths."""

    @web.middleware
    async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_known = any(is_key(request, api_key) for api_key in api_keys)
        resource = request.match_info.route.resource
        if not is_known and (resource is None or resource.canonical not in PUBLIC_PATHS):
            raise Unauthorized("this server needs an API key: send it as 'Authorization: Bearer KEY'")
        return await handler(request)

    return check_key


def _failure(error: web.HTTPException) -> Failure:
    """What aiohttp refuses by itself, in our words."""
    if error.status == 404:
        return NotFound("there is no such path").failure
    if error.status == 405:
        return MethodNotAllowed("this path does not allow this method").failure
    if error.status == 413:
        return BodyTooLarge("the body is too large").failure
    return Failure(status=error.status, type=InvalidRequest.type, message=error.reason)
