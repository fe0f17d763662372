"""What the server and the grammar compiler's process say to each other: frames of msgpack, each after its length.

There is no pickle in it, and neither side runs what the other sends.
"""

from __future__ import annotations

import struct

import msgspec

from runtime.errors import Failure
from runtime.params import GrammarSpec
from runtime.sampling.grammar_backend import GrammarVocabulary
from runtime.sampling.grammar_plan import BackendName, Choice

LENGTH = struct.Struct("<Q")

OUT_OF_MEMORY = 12
"""The child's exit code at its memory limit, where the library at work does not abort by itself."""


class Setup(msgspec.Struct, frozen=True, tag=True):
    """To the child, once: what it compiles for, and what one grammar may cost."""

    vocabulary: GrammarVocabulary
    choice: Choice
    cpu_s: float
    memory_bytes: int
    """Beyond what the process takes when its libraries are loaded."""


class Compile(msgspec.Struct, frozen=True, tag=True):
    """To the child."""

    grammar: GrammarSpec


class BackendNeeded(msgspec.Struct, frozen=True, tag=True):
    """From the child: it now imports a library, which takes its time."""


class BackendReady(msgspec.Struct, frozen=True, tag=True):
    """From the child: it now begins to compile."""


class Compiled(msgspec.Struct, frozen=True, tag=True):
    """From the child: `compiled` is for `GrammarBackend.load`."""

    backend: BackendName
    compiled: bytes
    cpu_us: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From the child."""

    failure: Failure


ToChild = Setup | Compile
FromChild = BackendNeeded | BackendReady | Compiled | Refused


def packed(frame: ToChild | FromChild) -> bytes:
    body = msgspec.msgpack.encode(frame)
    return LENGTH.pack(len(body)) + body
