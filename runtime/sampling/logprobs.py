"""Log probabilities of tokens, read off a model's own logits: before penalties, bias, grammar, temperature and filters.

As SGLang and transformers count them: natural logarithms of the softmax over the whole vocabulary, in float32. Pure; a row's
result does not depend on the rows beside it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runtime.messages import TokenLogprobs
from runtime.params import LogprobOptions

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Ranking = tuple[tuple[int, float], ...]

_LOWEST = float(np.finfo(np.float32).min)
"""Stands for the logarithm of 0, which JSON can not write."""


def token_logprobs(logits: Logits, token_ids: Ids, options: LogprobOptions) -> TokenLogprobs | None:
    """Of `token_ids` [rows], each after the prefix that gave its row of `logits` [rows, vocab], which are not changed.

    None if a row has a NaN or +inf, so that it has no probabilities. Ids must be smaller than the vocabulary.
    """
    normalizers = _log_normalizers(logits)  # [rows]
    if not np.isfinite(normalizers).all():
        return None
    rows = range(len(logits))
    values = _below(logits[np.arange(len(logits)), token_ids], normalizers)
    chosen_ids = np.array(options.token_ids, dtype=np.int64)
    return TokenLogprobs(
        token_ids=tuple(token_ids.tolist()),
        values=tuple(values),
        top=tuple(_ranked(logits[i], normalizers[i], options.num_top) for i in rows) if options.num_top else (),
        chosen=tuple(_listed(logits[i], normalizers[i], chosen_ids) for i in rows) if options.token_ids else (),
    )


def after_nothing(token_id: int, options: LogprobOptions) -> TokenLogprobs:
    """The entry of the first token of a prompt: no token precedes it, so it has no probability."""
    return TokenLogprobs(
        token_ids=(token_id,),
        values=(None,),
        top=(None,) if options.num_top else (),
        chosen=(None,) if options.token_ids else (),
    )


def _log_normalizers(logits: Logits) -> Logits:
    """[rows] the logarithm of the sum of the exponentials."""
    largest = logits.max(axis=1)
    with np.errstate(invalid="ignore", under="ignore"):
        sums = np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64)
        normalizers: Logits = (largest + np.log(sums)).astype(np.float32)
    return normalizers


def _below(logits: Logits, normalizers: Logits | np.float32) -> list[float]:
    values: list[float] = np.maximum(logits - normalizers, _LOWEST).tolist()
    return values


def _ranked(row: Logits, normalizer: np.float32, num_top: int) -> Ranking:
    """The likeliest first; of equally likely ones the smaller id."""
    num_top = min(num_top, len(row))
    boundary = np.partition(row, len(row) - num_top)[len(row) - num_top]
    ids = np.flatnonzero(row >= boundary)
    ids = ids[np.argsort(-row[ids], kind="stable")][:num_top]
    return _listed(row, normalizer, ids)


def _listed(row: Logits, normalizer: np.float32, token_ids: Ids) -> Ranking:
    return tuple(zip(token_ids.tolist(), _below(row[token_ids], normalizer), strict=True))
