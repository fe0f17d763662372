"""Clients that ask many questions behind a shared prefix; one file each.

A module offers `PACKAGE`, which it needs and which may not be there, and `measure(job) -> float`: seconds from the first
request to the last answer. It raises if an answer is missing.
"""

from __future__ import annotations

import msgspec


class Job(msgspec.Struct, frozen=True):
    """The same for every client; each answer has exactly `num_tokens` tokens, chosen greedily."""

    base_url: str
    prefix: str
    questions: list[str]
    num_tokens: int
