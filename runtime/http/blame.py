"""Grammars are compiled far behind the door, which alone knows the field that one came from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from runtime.errors import RequestError
from runtime.http.failure import error_of

GRAMMAR_KINDS = frozenset({"json_schema", "json_object", "regex", "ebnf", "structural_tag"})
"""What a grammar that does not compile is called there."""


@contextlib.contextmanager
def blaming(param: str | None) -> Iterator[None]:
    """Failures of the request's grammar name `param`, the client's own field."""
    try:
        yield
    except RequestError as error:
        if param is None or error.failure.param not in GRAMMAR_KINDS:
            raise
        raise error_of(msgspec.structs.replace(error.failure, param=param)) from None
