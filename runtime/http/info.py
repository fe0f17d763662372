"""What the door knows about the server behind it: facts that do not change while it runs."""

from __future__ import annotations

from typing import Any

import msgspec


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Filled in by the composition root once the model is loaded."""

    model_path: str
    tokenizer_path: str
    served_model_name: str
    context_length: int
    """Most tokens of a sequence, prompt and output together."""
    vocab_size: int
    """Width of the logits: token ids are below it."""
    max_total_num_tokens: int
    """Tokens that the KV cache holds."""
    version: str
    started_at: int
    """Unix time in seconds."""
    flags: dict[str, Any] = {}
    """All settings by name, without secrets."""
    logit_processors: tuple[str, ...] = ()
    """Names of the classes that the operator loaded."""
    skips_tokenizer: bool = False
    """Prompts are token ids, and so are results."""
    role_template: Any = None
    """What stands around each role's turns, as plain data, for clients that write chats as text; None if that is not fixed."""

    def is_served(self, model: str | None) -> bool:
        """Whether requests may call the model by this name."""
        return model in (None, "default", self.served_model_name, self.model_path)
