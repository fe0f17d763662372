"""The items of a response's output, and the events that tell how they grow.

An item begins, grows and ends; each of these returns its events as (type, fields), in the official order. An item's fields are
complete once it has ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from runtime.pieces import CallArguments, CallBegin, Piece, ReasoningPiece, TextPiece

Event = tuple[str, dict[str, Any]]
Status = Literal["in_progress", "completed", "incomplete"]


class Item(ABC):
    """`index` is the item's place in the output."""

    def __init__(self, item_id: str, index: int) -> None:
        self.id = item_id
        self.index = index
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def grow(self, text: str, logprobs: list[Any]) -> list[Event]:
        self._texts.append(text)
        return [self._delta(text, logprobs)]

    def begin(self) -> list[Event]:
        return [("response.output_item.added", {"output_index": self.index, "item": self.fields("in_progress")})]

    def end(self, status: Status) -> list[Event]:
        return [("response.output_item.done", {"output_index": self.index, "item": self.fields(status)})]

    @abstractmethod
    def fields(self, status: Status) -> dict[str, Any]:
        """The item as the API shows it; one in progress has no content yet."""

    @abstractmethod
    def _delta(self, text: str, logprobs: list[Any]) -> Event: ...


class PartItem(Item):
    """An item with one part of content."""

    text_event: str

    def begin(self) -> list[Event]:
        part = ("response.content_part.added", {**self._place(), "part": self._part("", [])})
        return [*super().begin(), part]

    def end(self, status: Status) -> list[Event]:
        part = ("response.content_part.done", {**self._place(), "part": self._part(self.text, self._logprobs())})
        return [(f"{self.text_event}.done", self._done()), part, *super().end(status)]

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}

    def _logprobs(self) -> list[Any]:
        return []

    def _done(self) -> dict[str, Any]:
        return {**self._place(), "text": self.text}

    def _delta(self, text: str, logprobs: list[Any]) -> Event:
        return f"{self.text_event}.delta", {**self._place(), "delta": text}

    @abstractmethod
    def _part(self, text: str, logprobs: list[Any]) -> dict[str, Any]: ...


class MessageItem(PartItem):
    """Text of the answer, with the log probabilities of its tokens."""

    text_event = "response.output_text"

    def __init__(self, item_id: str, index: int) -> None:
        super().__init__(item_id, index)
        self._entries: list[Any] = []

    def fields(self, status: Status) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part(self.text, self._entries)]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _logprobs(self) -> list[Any]:
        return self._entries

    def _done(self) -> dict[str, Any]:
        return {**super()._done(), "logprobs": self._entries}

    def _delta(self, text: str, logprobs: list[Any]) -> Event:
        self._entries += logprobs
        name, fields = super()._delta(text, logprobs)
        return name, {**fields, "logprobs": logprobs}

    def _part(self, text: str, logprobs: list[Any]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


class ReasoningItem(PartItem):
    """What the model thought."""

    text_event = "response.reasoning_text"

    def fields(self, status: Status) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part(self.text, [])]
        return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}

    def _part(self, text: str, logprobs: list[Any]) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": text}


class CallItem(Item):
    """A function call; its text are the arguments."""

    def __init__(self, item_id: str, index: int, call_id: str, name: str) -> None:
        super().__init__(item_id, index)
        self.call_id = call_id
        self.name = name

    def fields(self, status: Status) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": "" if status == "in_progress" else self.text or "{}",
        }

    def end(self, status: Status) -> list[Event]:
        done = {"item_id": self.id, "output_index": self.index, "name": self.name, "arguments": self.text or "{}"}
        return [("response.function_call_arguments.done", done), *super().end(status)]

    def _delta(self, text: str, logprobs: list[Any]) -> Event:
        fields = {"item_id": self.id, "output_index": self.index, "delta": text}
        return "response.function_call_arguments.delta", fields


class OutputItems:
    """All items of one output, made from its pieces. One item is open at a time."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        """`new_id` makes an id from its prefix."""
        self._new_id = new_id
        self._items: list[Item] = []
        self._is_open = False
        self._last_status: Status = "completed"

    def fields(self) -> list[dict[str, Any]]:
        """The items that have ended."""
        ended = self._items[:-1] if self._is_open else self._items
        return [item.fields(self._last_status if item is self._items[-1] else "completed") for item in ended]

    def add(self, piece: Piece, logprobs: list[Any]) -> list[Event]:
        """`logprobs` are of the tokens that brought `piece`."""
        match piece:
            case TextPiece(text):
                return [*self._to(MessageItem, "msg"), *self._items[-1].grow(text, logprobs)]
            case ReasoningPiece(text):
                return [*self._to(ReasoningItem, "rs"), *self._items[-1].grow(text, logprobs)]
            case CallBegin(name=name, id=call_id):
                item = CallItem(self._new_id("fc"), len(self._items), call_id or self._new_id("call"), name)
                return [*self.close("completed"), *self._begin(item)]
            case CallArguments(text=text):
                return self._items[-1].grow(text, logprobs)

    def close(self, status: Status) -> list[Event]:
        """End the open item."""
        if not self._is_open:
            return []
        self._is_open = False
        self._last_status = status
        return self._items[-1].end(status)

    def _to(self, kind: type[MessageItem] | type[ReasoningItem], prefix: str) -> list[Event]:
        """See to it that the open item is of this kind."""
        if self._is_open and isinstance(self._items[-1], kind):
            return []
        return [*self.close("completed"), *self._begin(kind(self._new_id(prefix), len(self._items)))]

    def _begin(self, item: Item) -> list[Event]:
        self._items.append(item)
        self._is_open = True
        return item.begin()
