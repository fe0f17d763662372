"""Constraints on the output as clients write them: at most one per sequence, within limits, and not compiled yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.schema.decoding import UNREAD, Unread, check_depth, decode_field, is_null
from runtime.params import GrammarSpec

MAX_SCHEMA_BYTES = 256 * 2**10
MAX_REGEX_CHARS = 4 * 2**10
MAX_EBNF_CHARS = 64 * 2**10

JsonText = Annotated[Unread, msgspec.Meta(extra_json_schema={"type": ["string", "object", "null"]})]
"""JSON as an object, or as a string that holds it; an empty string stands for none."""


class GrammarFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What SGLang calls them at all doors."""

    json_schema: JsonText = UNREAD
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: JsonText = UNREAD


Found = tuple[str, GrammarSpec]
"""A grammar, and the name of the field that it came from."""


def grammar_of(fields: GrammarFields, prefix: str = "", others: Sequence[Found] = ()) -> GrammarSpec | None:
    """The one grammar in `fields` and `others`. Raises `InvalidRequest`, with `prefix` before the name of the field."""
    found: list[Found] = list(others)
    if (schema := json_schema(fields.json_schema, prefix + "json_schema")) is not None:
        found.append((prefix + "json_schema", schema))
    if fields.regex:
        found.append((prefix + "regex", regex(fields.regex, prefix + "regex")))
    if fields.ebnf:
        found.append((prefix + "ebnf", ebnf(fields.ebnf, prefix + "ebnf")))
    if (tag := structural_tag(fields.structural_tag, prefix + "structural_tag")) is not None:
        found.append((prefix + "structural_tag", tag))
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise InvalidRequest(f"only one constraint is allowed for an output, not {names}", param=found[1][0])
    return found[0][1] if found else None


def json_schema(field: Unread, param: str) -> GrammarSpec | None:
    """A JSON schema, given as an object, a bool or a text that holds one. Raises `InvalidRequest`."""
    source = _json_source(field, param, (dict, bool))
    return None if source is None else GrammarSpec("json_schema", source)


def structural_tag(field: Unread, param: str) -> GrammarSpec | None:
    """A structural tag, given as an object or a text that holds one. Raises `InvalidRequest`."""
    source = _json_source(field, param, (dict,))
    return None if source is None else GrammarSpec("structural_tag", source)


def regex(source: str, param: str) -> GrammarSpec:
    """Raises `InvalidRequest` if it is too long."""
    _check_length(source, MAX_REGEX_CHARS, param)
    return GrammarSpec("regex", source)


def ebnf(source: str, param: str) -> GrammarSpec:
    """Raises `InvalidRequest` if it is too long."""
    _check_length(source, MAX_EBNF_CHARS, param)
    return GrammarSpec("ebnf", source)


def _json_source(field: Unread, param: str, kinds: tuple[type, ...]) -> str | None:
    if is_null(field):
        return None
    raw = bytes(field)
    if raw.startswith(b'"'):
        raw = decode_field(field, str, param, 2 * MAX_SCHEMA_BYTES).encode()
        if not raw:
            return None
    value = decode_field(Unread(raw), object, param, MAX_SCHEMA_BYTES)
    if not isinstance(value, kinds):
        raise InvalidRequest(f"{param} must hold a JSON object", param=param)
    check_depth(value, param)
    return raw.decode()


def _check_length(source: str, max_chars: int, param: str) -> None:
    if len(source) > max_chars:
        raise InvalidRequest(f"{param} is longer than {max_chars} characters", param=param)
