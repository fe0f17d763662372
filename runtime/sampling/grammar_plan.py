"""Which backend compiles a grammar, and from what text: decided by walking what the client sent.

`auto` takes llguidance for JSON and regular expressions, since it does what it accepts faithfully and compiles in a
millisecond, and xgrammar for EBNF and structural tags, which only it reads. A named backend does its own or refuses.
Invariant: what is planned means what the client wrote; what no backend does faithfully raises.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from runtime.errors import InvalidRequest, Unsupported
from runtime.params import GrammarSpec
from runtime.sampling.json_schema.document import Document, load
from runtime.sampling.json_schema.patterns import PatternError, translate
from runtime.sampling.json_schema.refusal import shown
from runtime.sampling.json_schema.rewriter import rewrite
from runtime.sampling.json_schema.xgrammar_limits import check, narrowed

BackendName = Literal["llguidance", "xgrammar"]
Choice = Literal["auto", "llguidance", "xgrammar"]

MAX_EBNF_BYTES = 64 * 1024
MAX_TAG_BYTES = 1024 * 1024
MAX_BRACKETS = 500
MAX_WHITESPACE = 2
"""Characters between two parts of a JSON text: each more makes compiling slower, without a limit a model can go on in it."""
XGRAMMAR_ESCAPE = "\\u{{{:x}}}"
XGRAMMAR_LACKS = ("[^\\", "\\p{", "\\P{", "\\x{")
JSON_OBJECT = '{"type": "object"}'


class PlannedGrammar(msgspec.Struct, frozen=True):
    """What a backend gets. `source` is of the backend's own dialect, and checked."""

    backend: BackendName
    kind: Literal["json_schema", "regex", "ebnf", "structural_tag"]
    source: str


def plan(spec: GrammarSpec, choice: Choice) -> PlannedGrammar:
    """Raises `InvalidRequest` for what is malformed and `Unsupported` for what can not be done faithfully."""
    match spec.kind:
        case "json_schema":
            return _json_schema(spec.source, choice)
        case "json_object":
            return _json_schema(JSON_OBJECT, choice)
        case "regex":
            return _regex(spec.source, choice)
        case "ebnf":
            return _ebnf(spec.source, choice)
        case "structural_tag":
            return _structural_tag(spec.source, choice)


def _json_schema(source: str, choice: Choice) -> PlannedGrammar:
    schema = rewrite(load(source))
    if choice == "xgrammar":
        check(schema)
    return PlannedGrammar("xgrammar" if choice == "xgrammar" else "llguidance", "json_schema", json.dumps(schema))


def _regex(source: str, choice: Choice) -> PlannedGrammar:
    backend: BackendName = "xgrammar" if choice == "xgrammar" else "llguidance"
    try:
        pattern = translate(source, is_whole=True, **({"hex_escape": XGRAMMAR_ESCAPE} if backend == "xgrammar" else {}))
        if backend == "xgrammar" and any(part in pattern for part in XGRAMMAR_LACKS):
            raise PatternError("xgrammar has no negated or Unicode classes")
    except PatternError as error:
        raise Unsupported(f"the regular expression is not supported: {error}", param="regex") from None
    return PlannedGrammar(backend, "regex", pattern)


def _ebnf(source: str, choice: Choice) -> PlannedGrammar:
    if choice == "llguidance":
        raise Unsupported("EBNF grammars need --grammar-backend auto or xgrammar", param="ebnf")
    if len(source.encode(errors="surrogatepass")) > MAX_EBNF_BYTES:
        raise InvalidRequest(f"the grammar is larger than {MAX_EBNF_BYTES} bytes", param="ebnf")
    if source.count("(") > MAX_BRACKETS:
        raise InvalidRequest(f"the grammar has more than {MAX_BRACKETS} groups", param="ebnf")
    return PlannedGrammar("xgrammar", "ebnf", source)


def _structural_tag(source: str, choice: Choice) -> PlannedGrammar:
    if choice == "llguidance":
        raise Unsupported("structural tags need --grammar-backend auto or xgrammar", param="structural_tag")
    if len(source.encode(errors="surrogatepass")) > MAX_TAG_BYTES:
        raise InvalidRequest(f"the structural tag is larger than {MAX_TAG_BYTES} bytes", param="structural_tag")
    try:
        tag = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the structural tag is not JSON: {shown(str(error))}", param="structural_tag") from None
    if not isinstance(tag, dict):
        raise InvalidRequest("the structural tag must be a JSON object", param="structural_tag")
    return PlannedGrammar("xgrammar", "structural_tag", json.dumps(_with_plain_schemas(_modern_tag(tag))))


def _modern_tag(tag: dict[str, Any]) -> dict[str, Any]:
    """SGLang's `structures` and `triggers` as the format `triggered_tags`. Raises `InvalidRequest`."""
    if "format" in tag:
        return {"type": "structural_tag", "format": tag["format"]}
    structures, triggers = tag.get("structures"), tag.get("triggers")
    if not isinstance(structures, list) or not isinstance(triggers, list):
        raise InvalidRequest("a structural tag must have a format, or structures and triggers", param="structural_tag")
    return {
        "type": "structural_tag",
        "format": {"type": "triggered_tags", "triggers": triggers, "tags": [*map(_tag, structures)]},
    }


def _tag(structure: Any) -> dict[str, Any]:
    if not isinstance(structure, dict) or not {"begin", "end"} <= structure.keys():
        raise InvalidRequest("a structure of a structural tag must have begin, schema and end", param="structural_tag")
    content = {"type": "json_schema", "json_schema": structure.get("schema", True)}
    return {"type": "tag", "begin": structure["begin"], "content": content, "end": structure["end"]}


def _with_plain_schemas(node: Any, depth: int = 0) -> Any:
    """The tag with each JSON schema in it rewritten, closed, and checked against what xgrammar does."""
    if depth > 64:
        raise InvalidRequest("the structural tag is nested too deeply", param="structural_tag")
    if isinstance(node, list):
        return [_with_plain_schemas(item, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    bounded = {"max_whitespace_cnt": MAX_WHITESPACE} if node.get("type") == "json_schema" else {}
    return bounded | {key: _plain(key, value, depth) for key, value in node.items()}


def _plain(key: str, value: Any, depth: int) -> Any:
    if key != "json_schema":
        return _with_plain_schemas(value, depth + 1)
    if not isinstance(value, bool | dict):
        raise InvalidRequest("a json_schema in a structural tag must be a schema", param="structural_tag")
    schema = rewrite(Document(value))
    check(schema, is_exact=False)
    return narrowed(schema)
