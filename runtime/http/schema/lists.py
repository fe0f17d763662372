"""Lists with one value for each prompt: their length is known before values are built for them.

msgspec reads a list to its end before it looks at its length. A struct that is written as an array is left at the first item
too many, so a list of a million items costs no more than one of 256.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.schema.decoding import NULL, Unread, decode_field, is_null

MAX_SEQUENCES = 256
"""Prompts times choices of one HTTP request."""

_Items = msgspec.defstruct(
    "_Items",
    [(f"item_{index}", Unread, NULL) for index in range(MAX_SEQUENCES)],
    array_like=True,
    forbid_unknown_fields=True,
)

_T = TypeVar("_T")


def is_list(field: Unread) -> bool:
    return bytes(memoryview(field)[:1]) == b"["


def items_of(field: Unread, param: str) -> list[Unread]:
    """The items of a list, still unread. Raises `InvalidRequest` if there are more than `MAX_SEQUENCES`."""
    try:
        items = msgspec.structs.astuple(msgspec.json.decode(field, type=_Items))
    except msgspec.ValidationError:
        message = f"{param} has more than {MAX_SEQUENCES} items, which is the most for one request"
        raise InvalidRequest(message, param=param) from None
    return [item for item in items if item is not NULL]


def values_of(field: Unread, kind: type[_T], num_prompts: int, param: str, max_bytes: int) -> list[_T | None]:
    """The value of each prompt; a single one counts for all. Raises `InvalidRequest`."""
    if is_null(field):
        return [None] * num_prompts
    if not is_list(field):
        return [decode_field(field, kind, param, max_bytes)] * num_prompts
    return list_of(field, kind, num_prompts, param, max_bytes)


def list_of(field: Unread, kind: type[_T], num_prompts: int, param: str, max_bytes: int) -> list[_T | None]:
    """The values of a list with one for each prompt, or null. Raises `InvalidRequest`."""
    items = items_of(field, param)
    if len(items) != num_prompts:
        raise InvalidRequest(f"{param} has {len(items)} items for {num_prompts} prompts", param=param)
    return [
        None if is_null(item) else decode_field(item, kind, f"{param}[{position}]", max_bytes)
        for position, item in enumerate(items)
    ]
