"""Sampling in torch, a row at a time: the definition that the Triton kernels are checked against.

Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011. The Gumbel draw: Gumbel, "Statistical theory of
extreme values and some practical applications", 1954; Maddison et al., "A* sampling", 2014.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.sampling.rules import Needs, SlotRules

INVALID_TOKEN = -1
LARGEST_FLOAT = torch.finfo(torch.float32).max

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def greedy(logits: Tensor) -> Tensor:
    """See `kernels.sampling.greedy`."""
    peaks = logits.amax(dim=-1, keepdim=True)  # a NaN is the largest
    first = (logits == peaks).to(torch.uint8).argmax(dim=-1)
    return torch.where(peaks[:, 0].isfinite(), first, INVALID_TOKEN).int()


def sample(
    logits: Tensor,
    slots: Tensor,
    positions: Tensor,
    rules: SlotRules,
    history: Tensor,
    needs: Needs,
    allowed: Tensor | None,
    allowed_rows: Tensor | None,
) -> Tensor:
    """See `kernels.sampling.sample`."""
    token_ids = greedy(logits)
    for index, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist(), strict=True)):
        if slot < 0 or token_ids[index] == INVALID_TOKEN:
            token_ids[index] = INVALID_TOKEN
            continue
        row = logits[index].clone()
        if needs.edits:
            edit(row, rules, slot, history[slot, :position])
        if allowed is not None and allowed_rows is not None and allowed_rows[index] >= 0:
            row[~unpack(allowed[allowed_rows[index]], len(row))] = -torch.inf
        token_ids[index] = choose(row, rules, slot, position, needs)
    return token_ids


def edit(row: Tensor, rules: SlotRules, slot: int, history: Tensor) -> None:
    """Bias, early-end mask and penalties, in this order, on `row` [vocab] in place."""
    row[rules.bias_ids[slot, : rules.num_biases[slot]].long()] += rules.bias_values[slot, : rules.num_biases[slot]]
    if len(history) < rules.min_lengths[slot]:
        row[rules.masked_ids[slot, : rules.num_masked[slot]].long()] = -torch.inf
    penalize_repetition(row, rules.repetition_penalties[slot], history)
    penalize_frequency(
        row, rules.frequency_penalties[slot], rules.presence_penalties[slot], history[rules.num_prompt_tokens[slot] :]
    )


def penalize_repetition(row: Tensor, penalty: Tensor, history: Tensor) -> None:
    """Divides the positive and multiplies the other logits of every token of the history [tokens] by `penalty`; -inf stays."""
    if penalty != 1.0:
        ids = history.long().bincount().nonzero()[:, 0]
        scores = row[ids]
        edited = torch.where(scores > 0, (scores / penalty).clamp(max=LARGEST_FLOAT), scores * penalty)
        row[ids] = torch.where(scores == -torch.inf, scores, edited)


def penalize_frequency(row: Tensor, frequency: Tensor, presence: Tensor, output: Tensor) -> None:
    """Subtracts, for every token of the output [tokens], its count times `frequency` plus `presence`."""
    if frequency != 0.0 or presence != 0.0:
        counts = output.long().bincount()
        ids = counts.nonzero()[:, 0]
        row[ids] -= counts[ids].float() * frequency + presence


def unpack(words: Tensor, vocab_size: int) -> Tensor:
    """[vocab] bool: the bits of `words` [words] int32, the lowest first."""
    bits = words[:, None] >> torch.arange(32, device=words.device)  # [words, 32]
    return (bits & 1).flatten()[:vocab_size].bool()


def choose(row: Tensor, rules: SlotRules, slot: int, position: int, needs: Needs) -> Tensor:
    """The token of the edited `row` [vocab], or INVALID_TOKEN."""
    temperature = rules.temperatures[slot]
    if not needs.draws or temperature == 0.0 or not row.amax().isfinite():
        return greedy(row[None])[0]
    if needs.filters:
        row = row.masked_fill(row < floor(row, rules, slot), -torch.inf)
    noise = gumbel(int(rules.seeds[slot]), position, len(row)).to(row.device)
    return greedy(((row - row.amax()) / temperature + noise)[None])[0]


# ---------------------------------------------------------------------------------------------------------------------
# Filters


def floor(row: Tensor, rules: SlotRules, slot: int) -> Tensor:
    """The smallest logit of `row` [vocab] that top-k, top-p and min-p leave; -inf may stay too where nothing filters."""
    top_k, top_p, min_p = int(rules.top_ks[slot]), rules.top_ps[slot], rules.min_ps[slot]
    kept = row
    if 0 < top_k < len(row):
        kept = kept[kept >= kept.topk(top_k).values[-1]]
    weights = ((kept - kept.amax()) / rules.temperatures[slot]).exp()
    if top_p < 1.0:
        stays = weights >= nucleus_boundary(weights, top_p)
        kept, weights = kept[stays], weights[stays]
    if min_p > 0.0:
        kept = kept[weights >= min_p]
    return kept.amin()


def nucleus_boundary(weights: Tensor, top_p: Tensor) -> Tensor:
    """The smallest of the largest `weights` [n] that together have at least the share `top_p` of the sum."""
    descending = weights.sort(descending=True).values
    mass = descending.double().cumsum(0)
    rank = torch.searchsorted(mass, top_p.double() * weights.double().sum())
    return descending[rank.clamp(max=len(descending) - 1)]


# ---------------------------------------------------------------------------------------------------------------------
# The draw


def gumbel(seed: int, position: int, vocab_size: int) -> Tensor:
    """[vocab] float32: noise whose entry for a token depends on seed, position and the token's id alone.

    Token t takes word t % 4 of Philox4x32-10 with the key `seed` and the counter (t // 4, position, 0, 0).
    """
    words = philox(seed, position, -(-vocab_size // 4))[:vocab_size]
    return -to_exponential(words).log()


def to_exponential(words: Tensor) -> Tensor:
    """Exponential variates [n] float32 of random words [n] in [0, 2**32): -log(1 - v) with v = (word + 1/2) / 2**32.

    For small v it is the series, as 1 - v has lost the digits that matter most: the token chosen has one of the smallest.
    """
    v = (words.float() + 0.5) * 2.0**-32
    series = v * (1.0 + v * (1 / 2 + v * (1 / 3 + v * (1 / 4 + v * (1 / 5)))))
    return torch.where(v < 1 / 16, series, -(1.0 - v).clamp(min=2.0**-25).log())


def philox(seed: int, position: int, num_counters: int) -> Tensor:
    """[4 * counters] int64 words in [0, 2**32), four for each counter (i, position, 0, 0)."""
    counter = [torch.arange(num_counters), torch.full((num_counters,), position), *torch.zeros(2, num_counters).long()]
    key = [seed & _WORD, seed >> 32 & _WORD]
    for _ in range(_ROUNDS):
        c0, c1, c2, c3 = counter
        low_0, high_0 = _product(_MULTIPLIERS[0], c0)
        low_1, high_1 = _product(_MULTIPLIERS[1], c2)
        counter = [high_1 ^ c1 ^ key[0], low_1, high_0 ^ c3 ^ key[1], low_0]
        key = [(word + step) & _WORD for word, step in zip(key, _KEY_STEPS, strict=True)]
    return torch.stack(counter, dim=1).flatten()


def _product(multiplier: int, words: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high word of `multiplier * words`. The int64 product wraps, which leaves its 64 bits right."""
    product = words * multiplier
    return product & _WORD, product >> 32 & _WORD
