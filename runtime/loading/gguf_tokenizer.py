"""Builds a `tokenizers.Tokenizer` from the `tokenizer.ggml.*` metadata of a GGUF file.

Two kinds of vocabulary: `gpt2` is byte-level BPE with explicit merges, `llama` is sentencepiece BPE with scores and byte
fallback, whose merges are implied by the scores. Token types are those of the GGUF specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from runtime.errors import LoadError
from runtime.loading import pre_tokenizers as known_pre_tokenizers
from runtime.loading.tokenizer_errors import library_errors_as

CONTROL, USER_DEFINED = 3, 4
_PREFIX = "tokenizer.ggml."
_DAMAGED = "the GGUF file's tokenizer is damaged"


class TokenizerMetadata(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename=lambda field: "tokenizer.chat_template" if field == "chat_template" else _PREFIX + field,
):
    """The metadata that is read, by the name after `tokenizer.ggml.`."""

    model: str
    tokens: list[str]
    pre: str = "default"
    merges: list[str] = []
    scores: list[float] = []
    token_type: list[int] = []
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    eot_token_id: int | None = None
    eom_token_id: int | None = None
    unknown_token_id: int | None = None
    padding_token_id: int | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool = False
    add_space_prefix: bool = True
    chat_template: str | None = None

    def token(self, token_id: int | None) -> str | None:
        return None if token_id is None else self.tokens[token_id]

    def of_type(self, token_type: int) -> list[str]:
        return [token for token, kind in zip(self.tokens, self.token_type, strict=False) if kind == token_type]


def read(metadata: Mapping[str, Any]) -> TokenizerMetadata:
    """Check types, lengths and ids. Raises `LoadError` in one line."""
    try:
        found = msgspec.convert(dict(metadata), TokenizerMetadata)
    except msgspec.ValidationError as error:
        raise _damaged(str(error)) from error
    num_tokens = len(found.tokens)
    for name in ("scores", "token_type"):
        length = len(msgspec.structs.asdict(found)[name])
        if length not in (0, num_tokens):
            raise LoadError(
                f"the GGUF file's tokenizer is damaged: {length} entries in {_PREFIX}{name} for {num_tokens} tokens"
            )
    for name, value in msgspec.structs.asdict(found).items():
        if name.endswith("_token_id") and value is not None and not 0 <= value < num_tokens:
            raise LoadError(
                f"the GGUF file's tokenizer is damaged: {_PREFIX}{name} is {value}, outside its {num_tokens} tokens"
            )
    return found


def build(metadata: TokenizerMetadata) -> Tokenizer:
    """The tokenizer with its special tokens. Raises `LoadError` for a kind of vocabulary that is not supported."""
    with library_errors_as(_DAMAGED):
        match metadata.model:
            case "gpt2":
                tokenizer = _byte_level(metadata)
            case "llama":
                tokenizer = _sentencepiece(metadata)
            case other:
                raise LoadError(
                    f"the GGUF file's tokenizer is of the kind {other!r}, and only gpt2 and llama are supported: "
                    "pass --tokenizer-path with a tokenizer.json"
                )
        _add_special_tokens(tokenizer, metadata)
    return tokenizer


def adds_bos(metadata: TokenizerMetadata) -> bool:
    """What the file says, or else llama.cpp's default for this kind of vocabulary."""
    if metadata.bos_token_id is None:
        return False
    if metadata.add_bos_token is not None:
        return metadata.add_bos_token
    return metadata.model == "llama" or known_pre_tokenizers.find(metadata.pre).adds_bos


def _byte_level(metadata: TokenizerMetadata) -> Tokenizer:
    if not metadata.merges:
        raise _damaged(f"{_PREFIX}merges is missing")
    pre = known_pre_tokenizers.find(metadata.pre)
    bpe = models.BPE(vocab=_ids(metadata), merges=_merges(metadata), ignore_merges=pre.ignore_merges)
    tokenizer = Tokenizer(bpe)
    normalizer = pre.normalizer()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: TokenizerMetadata) -> Tokenizer:
    """As transformers converts Llama's tokenizer: spaces become ▁, and one is put before the first word."""
    if not metadata.merges and not metadata.scores:
        raise _damaged(f"{_PREFIX}scores is missing")
    merges = _merges(metadata) if metadata.merges else _implied_merges(metadata)
    unknown = metadata.token(metadata.unknown_token_id)
    bpe = models.BPE(vocab=_ids(metadata), merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    scheme = "first" if metadata.add_space_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.add_space_prefix:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _damaged(detail: str) -> LoadError:
    return LoadError(f"{_DAMAGED}: {detail}")


def _ids(metadata: TokenizerMetadata) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(metadata.tokens)}


def _merges(metadata: TokenizerMetadata) -> list[tuple[str, str]]:
    pairs = []
    for merge in metadata.merges:
        left, _, right = merge.partition(" ")
        if not left or not right:
            raise _damaged(f"{merge!r} in {_PREFIX}merges is not a pair")
        pairs.append((left, right))
    return pairs


def _implied_merges(metadata: TokenizerMetadata) -> list[tuple[str, str]]:
    """Every cut of a token into two others, best score first, as sentencepiece's own BPE prefers them."""
    ids = _ids(metadata)
    pairs = []
    for token, score in zip(metadata.tokens, metadata.scores, strict=True):
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = sorted((ids[left], ids[right], left, right) for left, right in cuts if left in ids and right in ids)
        pairs += [(score, left, right) for _, _, left, right in known]
    pairs.sort(key=lambda pair: (pair[0], len(pair[1]), len(pair[2])), reverse=True)
    return [(left, right) for _, left, right in pairs]


def _add_special_tokens(tokenizer: Tokenizer, metadata: TokenizerMetadata) -> None:
    """Control tokens are special; user-defined ones are text that is never cut. Both keep the ids they have."""
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in metadata.of_type(CONTROL)])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in metadata.of_type(USER_DEFINED)])
    bos = metadata.token(metadata.bos_token_id) if adds_bos(metadata) else None
    eos = metadata.token(metadata.eos_token_id) if metadata.add_eos_token else None
    wrap_with(tokenizer, bos, eos)


def wrap_with(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> None:
    """Make `encode` put these tokens around a text."""
    around = [token for token in (bos, eos) if token is not None]
    template = [token for token in (bos, "$A", eos) if token is not None]
    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(around)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
