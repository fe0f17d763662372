"""One schema document: its draft, and what its `$ref`s point to.

Invariant: after loading, each `$ref` in the document is a pointer from the document's root (`#/a/b`) that resolves, or is
refused when it is followed.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn
from urllib.parse import unquote, urldefrag, urljoin

from runtime.errors import InvalidRequest
from runtime.sampling.json_schema.refusal import PARAM, malformed, shown, step, unsupported

Schema = bool | dict[str, Any]

MAX_SOURCE_BYTES = 256 * 1024
MAX_DEPTH = 64
VALUE_KEYWORDS = frozenset({"enum", "const", "default", "example", "examples"})
"""What stands under these is data: a `$ref` in it means nothing."""
DRAFTS = (("draft-03", 3), ("draft-04", 4), ("draft-06", 6), ("draft-07", 7), ("2019-09", 2019), ("2020-12", 2020))
LATEST = 2020


class Document:
    """A parsed schema. `draft` is 4, 6, 7, 2019 or 2020; 2020 where the schema does not say."""

    def __init__(self, root: Schema) -> None:
        self.draft = _draft_of(root)
        self._id_keyword = "id" if self.draft == 4 else "$id"
        self._resources: dict[str, str] = {"": "#"}
        self._anchors: dict[tuple[str, str], str] = {}
        self._raw = root
        self._collect(root, "#", "", depth=0)
        self.root: Schema = self._with_pointers(root, "")

    def resolve(self, pointer: str, path: str) -> Schema:
        """What a `$ref` at `path` points to. Raises `Unsupported` for other documents, `InvalidRequest` for nothing."""
        if not pointer.startswith("#"):
            raise unsupported(path, "$ref", f"{shown(pointer)} is not in this document")
        found = _at(self.root, pointer)
        if found is None:
            raise malformed(path, f"points to {shown(pointer)}, which is not there")
        if not isinstance(found, bool | dict):
            raise malformed(path, f"points to {shown(pointer)}, which is not a schema")
        return found

    def _collect(self, node: Any, pointer: str, base: str, depth: int) -> None:
        """Note where the ids and anchors are. Raises `InvalidRequest` if the schema is too deep."""
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"the JSON schema is nested deeper than {MAX_DEPTH} levels", param=PARAM)
        if isinstance(node, list):
            for index, item in enumerate(node):
                self._collect(item, step(pointer, index), base, depth + 1)
        if not isinstance(node, dict):
            return
        base = self._note_names(node, pointer, base)
        for keyword, value in node.items():
            if keyword not in VALUE_KEYWORDS:
                self._collect(value, step(pointer, keyword), base, depth + 1)

    def _note_names(self, node: dict[str, Any], pointer: str, base: str) -> str:
        """Returns the base URI of what is inside the node."""
        found = self._own_id(node)
        if found is not None:
            base, fragment = _joined(base, found)
            if fragment:
                self._anchors[base, fragment] = pointer
            else:
                self._resources.setdefault(base, pointer)
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(keyword), str):
                self._anchors[base, node[keyword]] = pointer
        return base

    def _own_id(self, node: dict[str, Any]) -> str | None:
        """The id of a schema; one with `$ref` has none up to draft 7, and a property called id is not one."""
        found = node.get(self._id_keyword)
        if not isinstance(found, str) or (self.draft <= 7 and "$ref" in node):
            return None
        return found

    def _with_pointers(self, node: Any, base: str) -> Any:
        """A copy of `node` in which each `$ref` is a pointer from the root."""
        if isinstance(node, list):
            return [self._with_pointers(item, base) for item in node]
        if not isinstance(node, dict):
            return node
        found = self._own_id(node)
        if found is not None:
            base = _joined(base, found)[0]
        copied = {
            keyword: value if keyword in VALUE_KEYWORDS else self._with_pointers(value, base) for keyword, value in node.items()
        }
        if isinstance(node.get("$ref"), str):
            copied["$ref"] = self._pointer(node["$ref"], base)
        return copied

    def _pointer(self, ref: str, base: str) -> str:
        """`ref` as a pointer from the root; unchanged if it leads out of the document."""
        resource, fragment = _joined(base, ref)
        start = self._resources.get(resource)
        if start is not None and (resource, fragment) in self._anchors:
            return self._anchors[resource, fragment]
        if start is not None and _at(self._raw, start + fragment) is not None:
            return start + fragment
        # Old generators put ids on everything, without meaning that references should start there.
        return "#" + unquote(ref[1:]) if ref.startswith("#") else ref


def load(source: str) -> Document:
    """Parse a schema. Raises `InvalidRequest` if it is not JSON, too large or too deep, or not a schema."""
    if len(source.encode(errors="surrogatepass")) > MAX_SOURCE_BYTES:
        raise InvalidRequest(f"the JSON schema is larger than {MAX_SOURCE_BYTES} bytes", param=PARAM)
    try:
        root = json.loads(source, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is not JSON: {shown(str(error))}", param=PARAM) from None
    if not isinstance(root, bool | dict):
        raise InvalidRequest("a JSON schema must be an object or a boolean", param=PARAM)
    return Document(root)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:20]} is too large")
    return value


def _draft_of(root: Schema) -> int:
    """Raises `Unsupported` for draft 3, whose keywords mean other things."""
    name = root.get("$schema") if isinstance(root, dict) else None
    draft = next((draft for part, draft in DRAFTS if isinstance(name, str) and part in name), LATEST)
    if draft == 3:
        raise unsupported("#", "$schema", "draft 3 is too old")
    return draft


def _joined(base: str, reference: str) -> tuple[str, str]:
    """URI without fragment, and the decoded fragment. Raises `InvalidRequest`."""
    try:
        resource, fragment = urldefrag(urljoin(base, reference))
    except ValueError:
        raise InvalidRequest(f"{shown(reference)} in the JSON schema is not a URI", param=PARAM) from None
    return resource, unquote(fragment)


def _at(root: Any, pointer: str) -> Any:
    """What a pointer leads to, or None."""
    node = root
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node
