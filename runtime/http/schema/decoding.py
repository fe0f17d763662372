"""The one door for JSON: bytes in, a checked value out, and nothing but `InvalidRequest` for whatever is wrong with them.

msgspec refuses what Python's own parser lets through (NaN, numbers that overflow to infinity, lone surrogates, bools as ints);
here its errors get the name of the field as the client wrote it. Of duplicate keys the last one counts.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from runtime.errors import InvalidRequest, Unsupported

MAX_DEPTH = 64
MAX_REFLECTED_CHARS = 200

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*?)(?:\[\.\.\.\])?`)?$", re.DOTALL)
_FIELD = re.compile(r"(?:unknown|required) field `(?P<name>.*)`$", re.DOTALL)
_BYTE = re.compile(r"\(byte (\d+)\)$")
_KEY_BEFORE = re.compile(rb'"(\w{1,64})"\s*:\s*-?$')

Label = Annotated[str, msgspec.Meta(max_length=256)]
"""A client's own name for a request: echoed, never a key."""
Priority = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

Unread = msgspec.Raw
"""The type of fields that are accepted and not looked at: values are not built for them, however large they are."""

NULL = msgspec.Raw(b"null")
"""What such a field is without a value."""

UNREAD: Unread = msgspec.field(default_factory=lambda: NULL)
"""The default of such a field. As a factory, because descriptions of types can not show a default of its type."""

MAX_COMPARED_BYTES = 4096
MANY_BYTES = 64 * 2**10
"""A smaller body does not make enough values for the collector to matter."""

_T = TypeVar("_T")


def decode(body: bytes, kind: type[_T]) -> _T:
    """`body` as a `kind`. Raises `InvalidRequest` with `param` set wherever a field is to blame."""
    try:
        if len(body) < MANY_BYTES:
            return msgspec.json.decode(body, type=kind)
        with _collection_paused():
            return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid_value(str(error)) from None
    except msgspec.DecodeError as error:
        raise _invalid_json(body, str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def decode_field(field: Unread, kind: type[_T], param: str, max_bytes: int) -> _T:
    """A field that was left unread, as a `kind`. Raises `InvalidRequest` with a `param` inside of `param`.

    Fields are left unread where the size of a value must be known to be small before values are built for it.
    """
    if memoryview(field).nbytes > max_bytes:
        raise InvalidRequest(f"{param} is larger than {max_bytes} bytes", param=param)
    try:
        return decode(bytes(field), kind)
    except InvalidRequest as error:
        inner = error.failure.param or ""
        place = param + inner if inner.startswith("[") else f"{param}.{inner}" if inner else param
        message = error.failure.message.removesuffix(f" at {inner}")
        raise InvalidRequest(f"{message} at {place}", param=place) from None


def is_null(field: Unread) -> bool:
    return field is NULL or bytes(memoryview(field)[:4]) == b"null"


def check_depth(value: Any, param: str) -> None:
    """Raise `InvalidRequest` if `value`, of lists and dicts, is nested deeper than `MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise InvalidRequest(f"{param} is nested deeper than {MAX_DEPTH}", param=param)


def refuse(
    fields: msgspec.Struct, accepted: Mapping[str, tuple[Any, ...]], prefix: str = "", per_item: Collection[str] = ()
) -> None:
    """Raise `Unsupported` for the first unread field that asks for more than its `accepted` values, which do nothing.

    Where a field is named in `per_item`, a list that holds one value for each prompt is as good as its items.
    """
    values = msgspec.structs.asdict(fields)
    for name, harmless in accepted.items():
        field = values[name]
        if field is not NULL and not _is_harmless(field, (None, *harmless), name in per_item):
            raise Unsupported(f"{prefix}{name} is not supported with this value", param=prefix + name)


def is_set(field: Unread) -> bool:
    """Whether an unread field holds more than null or an empty value."""
    return not _is_harmless(field, (None, False, "", [], {}), is_per_item=False)


def _is_harmless(field: Unread, harmless: tuple[Any, ...], is_per_item: bool) -> bool:
    if memoryview(field).nbytes > MAX_COMPARED_BYTES:
        return False
    value = decode(bytes(field), object)
    items = value if is_per_item and isinstance(value, list) and value else [value]
    return all(any(type(item) is type(choice) and item == choice for choice in harmless) for item in items)


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """Parsing makes no garbage, but a million new lists would make the collector look for it again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _children(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


def _invalid_value(text: str) -> InvalidRequest:
    place = _PLACE.match(text)
    what, path = (place["what"], place["path"] or "") if place else (text, "")
    field = _FIELD.search(what)
    if field:
        path = f"{path}.{field['name']}" if path else field["name"]
    param = path[:MAX_REFLECTED_CHARS] or None
    return InvalidRequest(what[:MAX_REFLECTED_CHARS] + (f" at {param}" if param and not field else ""), param=param)


def _invalid_json(body: bytes, text: str) -> InvalidRequest:
    """If the bytes break where a value should start, as NaN does, the key before them is to blame."""
    place = _BYTE.search(text)
    end = int(place[1]) if place else 0
    key = _KEY_BEFORE.search(body[max(0, end - 100) : end])
    return InvalidRequest(f"the body is not valid JSON: {text}", param=key[1].decode() if key else None)
