"""The store of responses: what it forgets, and when."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.errors import NotFound
from runtime.http.response_store import ResponseStore, StoredResponse


def stored(response_id: str, size: int = 10) -> StoredResponse:
    response: dict[str, Any] = {"id": response_id, "text": "x" * size}
    return StoredResponse(response=response, items=[{"type": "message"}])


def ids(store: ResponseStore) -> list[str]:
    found = []
    for name in "abcdef":
        try:
            found.append(store.get(name).response["id"])
        except NotFound:
            continue
    return found


def test_the_ones_not_asked_for_the_longest_are_forgotten_first() -> None:
    store = ResponseStore(max_responses=3)
    for name in "abc":
        store.put(stored(name))
    store.get("a")
    store.put(stored("d"))
    assert ids(store) == ["a", "c", "d"]
    assert len(store) == 3


def test_its_size_is_bounded_and_counted() -> None:
    store = ResponseStore(max_bytes=800)
    for name in "abcdef":
        store.put(stored(name, size=300))
        assert store.num_bytes <= 800
    assert ids(store) == ["e", "f"]
    store.put(stored("f", size=700))
    assert store.get("f").response["text"] == "x" * 700
    assert ids(store) == ["f"]
    for name in "ef":
        store.discard(name)
    assert (store.num_bytes, len(store)) == (0, 0)


def test_one_that_is_too_large_is_not_kept() -> None:
    store = ResponseStore(max_bytes=100)
    store.put(stored("a", size=200))
    assert (store.num_bytes, len(store)) == (0, 0)


def test_an_unknown_one_is_not_found() -> None:
    store = ResponseStore()
    with pytest.raises(NotFound) as caught:
        store.get("x" * 1000, "previous_response_id")
    assert caught.value.failure.param == "previous_response_id"
    assert caught.value.failure.code == "response_not_found"
    assert len(caught.value.failure.message) < 250
