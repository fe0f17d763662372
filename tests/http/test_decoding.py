"""The JSON door: every way in which bytes can be wrong is one `InvalidRequest`, with the field named where there is one."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from runtime.errors import InvalidRequest, Unsupported
from runtime.http.schema.decoding import MAX_DEPTH, UNREAD, Unread, check_depth, decode, refuse


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    flag: bool = False


class Body(msgspec.Struct, forbid_unknown_fields=True):
    number: float = 0.0
    count: int = 0
    text: str = ""
    items: list[str | int | list[int]] = []
    bias: dict[int, float] = {}
    inner: list[Inner] = []
    anything: Unread = UNREAD


DIGITS = b"9" * 5000

WRONG = {
    "empty": (b"", None),
    "no object": (b"[]", None),
    "null": (b"null", None),
    "cut": (b'{"count": 1', None),
    "trailing": (b"{} {}", None),
    "single quotes": (b"{'count': 1}", None),
    "BOM": (b"\xef\xbb\xbf{}", None),
    "UTF-16": ('{"count": 1}'.encode("utf-16"), None),
    "invalid UTF-8": (b'{"text": "\xff"}', None),
    "invalid UTF-8 key": (b'{"\xff": 1}', None),
    "overlong UTF-8": (b'{"text": "\xc0\xaf"}', None),
    "UTF-8 surrogate": (b'{"text": "\xed\xa0\x80"}', None),
    "lone high surrogate": (b'{"text": "\\ud800"}', None),
    "lone low surrogate": (b'{"text": "a\\udc00"}', None),
    "surrogate in a key": (b'{"anything": {"\\ud800": 1}}', None),
    "NaN": (b'{"number": NaN}', "number"),
    "Infinity": (b'{"number":Infinity}', "number"),
    "-Infinity": (b'{"number": -Infinity}', "number"),
    "1e999": (b'{"number": 1e999}', "number"),
    "-1e999": (b'{"number": -1e999}', "number"),
    "1e999 in an object": (b'{"bias": {"1": 1e999}}', "bias"),
    "5000 digits": (b'{"count": ' + DIGITS + b"}", "count"),
    "5000 digits as a float": (b'{"number": ' + DIGITS + b"}", "number"),
    "bool as int": (b'{"count": true}', "count"),
    "bool as float": (b'{"number": false}', "number"),
    "float as int": (b'{"count": 1.0}', "count"),
    "string as int": (b'{"count": "5"}', "count"),
    "null as int": (b'{"count": null}', "count"),
    "bool in a list": (b'{"items": [1, true]}', "items[1]"),
    "deep path": (b'{"inner": [{"size": 1}, {"size": "x"}]}', "inner[1].size"),
    "missing": (b'{"inner": [{}]}', "inner[0].size"),
    "unknown": (b'{"colour": 1}', "colour"),
    "unknown below": (b'{"inner": [{"size": 1, "colour": 1}]}', "inner[0].colour"),
    "key of another type": (b'{"bias": {"a": 1}}', "bias"),
    "value of another type": (b'{"bias": {"1": "x"}}', "bias"),
    "deep lists": (b'{"anything":' + b"[" * 10**6, None),
    "deep objects": (b'{"anything":' + b'{"a":' * 10**5, None),
    "deep from the start": (b"[" * 10**6, None),
    "deep in a typed list": (b'{"items":' + b"[" * 10**6, "items[0][0]"),
}


@pytest.mark.parametrize(("body", "param"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_an_invalid_request(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(body, Body)
    assert caught.value.failure.param == param
    assert len(caught.value.failure.message) < 500


def test_long_names_are_not_reflected() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(b'{"' + b"x" * 10**6 + b'": 1}', Body)
    assert len(caught.value.failure.message) < 500
    assert len(caught.value.failure.param or "") <= 200


def test_what_is_right_passes() -> None:
    body = decode('{"text": "\\ud83d\\ude00 é \\u0000", "number": 1, "bias": {"5": -1}, "count": 1, "count": 2}'.encode(), Body)
    assert body == Body(text="\U0001f600 é \x00", number=1.0, bias={5: -1.0}, count=2)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: {"a": [1, inner]}])
def test_depth_is_bounded(wrap: Any) -> None:
    value: Any = []
    for _ in range(MAX_DEPTH // 2 - 1):
        value = wrap(value)
    check_depth(value, "value")
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    with pytest.raises(InvalidRequest):
        check_depth(value, "value")


def test_only_harmless_values_of_missing_features_pass() -> None:
    accepted = {"anything": (False, "", [])}
    for harmless in (None, False, "", []):
        refuse(Body(anything=msgspec.Raw(orjson.dumps(harmless))), accepted)
    refuse(Body(anything=msgspec.Raw(b"[false,null]")), accepted, per_item={"anything"})
    for value in (True, 0, 0.0, "x", [1], {}, [None], [False, None], [False, True], "x" * 10**6):
        with pytest.raises(Unsupported) as caught:
            refuse(Body(anything=msgspec.Raw(orjson.dumps(value))), accepted, "inner.")
        assert caught.value.failure.param == "inner.anything"
        assert caught.value.failure.code == "unsupported_parameter"
