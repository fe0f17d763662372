"""Actors: classes with one async method per message type, and the references through which they are told.

    class Echo(Actor):
        @receives(Said)
        async def said(self, message: Said) -> None:
            self.peer.tell(Heard(message.text))

The type → method table is built when the class is created. Handlers of one actor never run at the same time. After each
batch of messages `after_batch` runs once: that is where an actor does what is due once per wake-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from runtime.actors.mailbox import Envelope, Mailbox
from runtime.messages import Message

Handler = Callable[[Any, Any], Awaitable[object]]
_Method = TypeVar("_Method", bound=Handler)
_RECEIVES = "__receives__"


def receives(*message_types: type[Message]) -> Callable[[_Method], _Method]:
    """Mark the method that handles `message_types`. What it returns answers an `ask`; a future does so when it is done."""

    def mark(method: _Method) -> _Method:
        setattr(method, _RECEIVES, message_types)
        return method

    return mark


class Ref:
    """Where `sender` can reach one receiver. Bound to its sender, because order is kept per pair."""

    __slots__ = ("_mailbox", "sender")

    def __init__(self, sender: str, mailbox: Mailbox) -> None:
        self.sender = sender
        self._mailbox = mailbox

    @property
    def receiver(self) -> str:
        return self._mailbox.owner

    def tell(self, message: Message) -> None:
        """Send on the data lane and go on. Raises `MailboxFull`."""
        self._mailbox.put(Envelope(self.sender, message))

    def tell_control(self, message: Message) -> None:
        """Send on the lane that overtakes data."""
        self._mailbox.put_control(Envelope(self.sender, message))

    async def ask(self, message: Message, deadline_s: float) -> Any:
        """Send on the control lane and wait for the answer.

        Raises `TimeoutError`, and `ConnectionError` if the handler raised or the message was lost in a crash or a stop.
        """
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._mailbox.put_control(Envelope(self.sender, message, reply))
        async with asyncio.timeout(deadline_s):
            return await reply


class Actor:
    """Base of all actors. Subclasses mark their handlers with `receives`."""

    handlers: ClassVar[dict[type[Message], Handler]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own: dict[type[Message], Handler] = {}
        for method in vars(cls).values():
            for message_type in getattr(method, _RECEIVES, ()):
                if message_type in own:
                    raise TypeError(f"{cls.__name__} has two handlers for {message_type.__name__}")
                own[message_type] = method
        # A method that is overridden without the mark still handles its message type.
        inherited = {known: vars(cls).get(method.__name__, method) for known, method in cls.handlers.items()}
        cls.handlers = inherited | own

    async def started(self) -> None:
        """Runs before the first message."""

    async def after_batch(self) -> None:
        """Runs once after each batch of messages."""

    async def stopped(self) -> None:
        """Runs after the last message when the supervisor stops; not after a crash, its own or one of its group."""

    async def handle(self, envelope: Envelope) -> None:
        """Call the handler of one envelope and answer its ask. Raises what the handler raises, and `TypeError` without one."""
        handler = self.handlers.get(type(envelope.message))
        if handler is None:
            raise TypeError(f"{type(self).__name__} does not receive {type(envelope.message).__name__}")
        try:
            answer = await handler(self, envelope.message)
        except BaseException as error:
            envelope.fail(error)
            raise
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(envelope.answer_with)
        else:
            envelope.answer(answer)
