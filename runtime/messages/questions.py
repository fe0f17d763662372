"""Questions: asked with a deadline rather than told, with the answers of those that have one of their own."""

from __future__ import annotations

from runtime.messages.message import Message
from runtime.params import Prompt


class Scrape(Message, frozen=True, kw_only=True):
    """ask Metrics: answers the Prometheus text exposition as bytes."""


class Probe(Message, frozen=True, kw_only=True):
    """ask Scheduler: answers `SchedulerState`."""


class SchedulerState(Message, frozen=True, kw_only=True):
    num_steps: int
    """Steps retired since start: liveness means that it moves while there is work."""
    num_waiting: int
    num_running: int
    num_in_flight_steps: int
    is_held: bool = False
    """No step is due although there may be work: a pause, or a command that has the engine for itself."""


class InspectPool(Message, frozen=True, kw_only=True):
    """ask Cache: answers `PoolState`."""


class PoolState(Message, frozen=True, kw_only=True):
    num_pages: int
    num_free_pages: int
    num_cached_pages: int
    """In the tree and used by nobody."""
    num_leased_pages: int
    num_fenced_pages: int
    """Released, but a step that may still write to them is in flight."""
    num_leases: int
    page_size: int


class FlushCache(Message, frozen=True, kw_only=True):
    """ask Cache: forget every unused cached page. Answers `CacheFlushed`."""


class CacheFlushed(Message, frozen=True, kw_only=True):
    num_freed_pages: int
    num_leases: int
    """Requests that still hold pages; the cache is empty only if this is 0."""


class EncodeTexts(Message, frozen=True, kw_only=True):
    """ask Tokenizer: the token ids of each of `texts`. Answers `Done`, whose value is a list of lists, or `Refused`."""

    texts: tuple[str, ...]
    add_special_tokens: bool = True
    param: str = "prompt"
    """What the client called them."""


class CountTokens(Message, frozen=True, kw_only=True):
    """ask Tokenizer: how many tokens `prompt` has. Answers `Done` or `Refused`."""

    prompt: Prompt


class DecodeTokens(Message, frozen=True, kw_only=True):
    """ask Tokenizer: the text of each list of token ids. Answers `Done`, whose value is a list of texts."""

    token_ids: tuple[tuple[int, ...], ...]
    skip_special_tokens: bool = True
