"""The definition of sampling on the device, against the sampler of the CPU; and batches for the tests of its kernels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.sampling import INVALID_TOKEN, Needs, SlotRules, greedy, reference, sample
from kernels.sampling.cases import CASES, Case, Rules
from runtime.messages import INVALID_TOKEN as SERVERS_INVALID_TOKEN
from runtime.params import SamplingParams
from runtime.sampling import steps
from runtime.sampling.bitmask import forbid
from runtime.sampling.sampler import SpecialRow
from runtime.sampling.sampler import sample as sample_on_cpu


@dataclass(frozen=True)
class Batch:
    """The arguments of `sample`."""

    case: Case
    logits: Tensor
    slots: Tensor
    positions: Tensor
    rules: SlotRules
    history: Tensor
    allowed: Tensor | None
    allowed_rows: Tensor | None

    def sample(self, function: Callable[..., Tensor]) -> Tensor:
        state = (self.logits, self.slots, self.positions, self.rules, self.history)
        return function(*state, self.case.needs, self.allowed, self.allowed_rows)

    def row(self, index: int) -> Batch:
        """A row in a batch of its own."""
        one = slice(index, index + 1)
        masks = None if self.allowed_rows is None else self.allowed_rows[one]
        return replace(self, logits=self.logits[one], slots=self.slots[one], positions=self.positions[one], allowed_rows=masks)


def make(case: Case, generator: torch.Generator, device: torch.device | str = "cpu") -> Batch:
    """Slots are in another order than rows, and there is one more of them. The first row of a batch with masks has none."""
    num_rows, num_slots = len(case.rows), len(case.rows) + 1
    slots = torch.arange(num_rows).flip(0).int()
    shape, words = (num_rows, case.vocab_size), (num_rows, -(-case.vocab_size // 32) + 1)
    masks = torch.randint(-(2**31), 2**31, words, generator=generator).int()
    return Batch(
        case=case,
        logits=(torch.randn(shape, generator=generator) * 3).to(device),
        slots=slots.to(device),
        positions=torch.randint(case.context // 2, case.context, (num_rows,), generator=generator).int().to(device),
        rules=make_rules(num_slots, slots.tolist(), case.rows, device),
        history=torch.randint(0, case.vocab_size, (num_slots, case.context), generator=generator).int().to(device),
        allowed=masks.to(device) if case.has_masks else None,
        allowed_rows=(torch.arange(num_rows) - 1).int().to(device) if case.has_masks else None,
    )


def make_rules(num_slots: int, slots: list[int], rows: tuple[Rules, ...], device: torch.device | str = "cpu") -> SlotRules:
    host, rules = (SlotRules.allocate(num_slots, place, max_masked=8, max_biases=8) for place in ("cpu", device))
    for slot, row in zip(slots, rows, strict=True):
        host.set(slot, **row)
    fields = ("scalars", "masked_ids", "bias_ids", "bias_values")
    for field in fields:
        getattr(rules, field).copy_(getattr(host, field))
    return rules


def special_row(batch: Batch, index: int) -> SpecialRow:
    """What the server's sampler is told of a row."""
    row, slot, position = batch.case.rows[index], int(batch.slots[index]), int(batch.positions[index])
    num_prompt_tokens = row.get("num_prompt_tokens", 0)
    names = ("top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed")
    params = SamplingParams(
        temperature=row.get("temperature", 0.0),
        min_new_tokens=max(row.get("min_length", 0) - num_prompt_tokens, 0),
        logit_bias=row.get("biases", {}),
        **{name: row[name] for name in names if name in row},
    )
    has_mask = batch.allowed_rows is not None and batch.allowed_rows[index] >= 0
    return SpecialRow(
        index=index,
        rules=steps.make_rules(params, num_prompt_tokens, row.get("masked_ids", ()), batch.case.vocab_size),
        history=batch.history[slot, :position].cpu().numpy(),
        mask=batch.allowed[batch.allowed_rows[index]].cpu().numpy() if has_mask else None,
    )


def edited_on_cpu(batch: Batch, index: int) -> steps.Row:
    """A row of the logits as the server's sampler edits and masks it."""
    special, row = special_row(batch, index), batch.logits[index].cpu().numpy().copy()
    for edit in steps.EDITS:
        edit(row, special.rules, special.history)
    if special.mask is not None:
        forbid(row, special.mask)
    return row


def staying_on_cpu(row: steps.Row, params: SamplingParams) -> set[int]:
    """The ids with a finite logit that the server's filters leave."""
    ids = np.arange(len(row))
    if 0 < params.top_k < len(row):
        ids = steps.top_k(row, params.top_k)
    weights = steps.temper(row[ids], params.temperature)
    if params.top_p < 1.0:
        kept = steps.top_p(weights, params.top_p)
        ids, weights = ids[kept], weights[kept]
    if params.min_p > 0.0:
        ids = ids[steps.min_p(weights, params.min_p)]
    return set(ids[np.isfinite(row[ids])].tolist())


def staying(row: steps.Row, floor: float) -> set[int]:
    return set(np.flatnonzero((row >= floor) & np.isfinite(row)).tolist())


def logits_to_filter(generator: torch.Generator, vocab_size: int) -> Tensor:
    """Rows [rows, vocab] of all shapes: flat, peaked, with ties, of few values, mostly masked, huge, all alike."""
    noise = torch.randn(8, vocab_size, generator=generator)
    noise[0] *= 0.1
    noise[2] *= 12.0
    noise[3] = (noise[3] * 2).round()
    noise[4] = noise[4].sign()
    noise[5, torch.randperm(vocab_size, generator=generator)[: vocab_size - 5]] = -torch.inf
    noise[6] *= 1e30
    noise[7] = 0.0
    return noise


FILTERS: tuple[Rules, ...] = (
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 50, "temperature": 0.01},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"top_p": 0.999999},
    {"top_p": 0.5, "temperature": 100.0},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"min_p": 1e-30},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.01},
    {"top_k": 200, "top_p": 0.3, "temperature": 5.0},
    {"top_p": 0.8, "min_p": 0.1, "temperature": 0.5},
    {"top_k": 10**6},
)


@pytest.mark.parametrize("rules", FILTERS, ids=str)
def test_filters_leave_what_the_servers_leave(rules, seeded):
    rules = {"temperature": 1.0} | rules
    slot_rules = make_rules(1, [0], (rules,))
    for logits in logits_to_filter(seeded, 700):
        row = logits.numpy()
        expected = staying_on_cpu(row, SamplingParams(**rules))
        assert staying(row, float(reference.floor(logits, slot_rules, 0))) == expected


@pytest.mark.parametrize("case", CASES)
def test_edits_are_the_servers(case, seeded):
    batch = make(case, seeded)
    for index, slot in enumerate(batch.slots.tolist()):
        row = batch.logits[index].clone()
        reference.edit(row, batch.rules, slot, batch.history[slot, : batch.positions[index]])
        if batch.allowed is not None and batch.allowed_rows[index] >= 0:
            row[~reference.unpack(batch.allowed[batch.allowed_rows[index]], case.vocab_size)] = -torch.inf
        np.testing.assert_array_equal(row.numpy(), edited_on_cpu(batch, index))


@pytest.mark.parametrize("case", CASES)
def test_greedy_rows_get_the_servers_token(case, seeded):
    batch = make(case, seeded)
    tokens = batch.sample(lambda *state: sample(*state[:5], needs=state[5], allowed=state[6], allowed_rows=state[7]))
    for index, row in enumerate(case.rows):
        if not row.get("temperature"):
            assert tokens[index] == sample_on_cpu(batch.logits.clone(), [special_row(batch, index)])[index]


def test_invalid_rows():
    assert INVALID_TOKEN == SERVERS_INVALID_TOKEN
    logits = torch.zeros(4, 10)
    logits[1, 3], logits[2, 5], logits[3] = torch.nan, torch.inf, -torch.inf
    assert greedy(logits).tolist() == [0, INVALID_TOKEN, INVALID_TOKEN, INVALID_TOKEN]


def test_words_are_philoxs():
    """The known answers of Random123's own tests, philox4x32 with ten rounds, where its counters have our form."""
    assert reference.philox(0, 0, 1).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_noise_depends_on_seed_position_and_id():
    noise = reference.gumbel(2**40 + 1, 5, 1000)
    assert torch.equal(noise[:333], reference.gumbel(2**40 + 1, 5, 333))
    others = (reference.gumbel(seed, position, 1000) for seed, position in ((1, 5), (2**40 + 2, 5), (2**40 + 1, 6)))
    assert not any((noise == other).any() for other in others)


def test_noise_has_gumbels_distribution():
    """Kolmogorov's distance from exp(-exp(-x)), below its 1 % point."""
    num = 400_000
    noise = reference.gumbel(3, 1, num).double().sort().values
    expected = (-(-noise).exp()).exp()
    distance = (expected - (torch.arange(num) + 0.5) / num).abs().max()
    assert distance * num**0.5 < 1.63


def test_small_variates_keep_their_digits():
    words = torch.tensor([0, 1, 2**20, 2**28 - 1, 2**28, 2**31, 2**32 - 1])
    exact = -torch.log1p(-(words.double() + 0.5) * 2.0**-32)
    torch.testing.assert_close(reference.to_exponential(words)[:-1].double(), exact[:-1], rtol=2e-6, atol=0)
    assert 17 < reference.to_exponential(words)[-1] < 23


def chi_square(num_drawn: Tensor, expected: Tensor) -> float:
    return float(((num_drawn - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("row", [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 2.0}], ids=str)
def test_tokens_have_the_distribution_of_the_tempered_logits(row, seeded):
    """Chi-square below its 0.1 % point for 11 degrees of freedom, over 1,500 positions of one sequence."""
    num_draws, row = 1500, {"temperature": 0.7, "seed": 99} | row
    logits = torch.randn(12, generator=seeded)
    rules = make_rules(1, [0], (row,))
    kept = torch.where(logits >= reference.floor(logits, rules, 0), logits, -torch.inf)
    expected = (kept / row["temperature"]).softmax(0) * num_draws
    positions, slots = torch.arange(num_draws).int(), torch.zeros(num_draws).int()
    tokens = sample(logits.expand(num_draws, 12), slots, positions, rules, torch.zeros(1, num_draws).int())
    num_drawn = tokens.long().bincount(minlength=12)
    assert not num_drawn[expected == 0].any()
    assert chi_square(num_drawn[expected > 0], expected[expected > 0]) < 31.26


def test_a_mask_comes_with_its_rows(seeded):
    batch = make(CASES[0], seeded)
    with pytest.raises(ValueError, match="go together"):
        sample(batch.logits, batch.slots, batch.positions, batch.rules, batch.history, allowed=torch.zeros(1, 1).int())


def test_the_scalars_of_all_slots_share_one_buffer():
    rows: tuple[Rules, ...] = ({"temperature": 0.5, "top_p": 0.25, "seed": 2**63 - 1}, {"masked_ids": (4, 5), "min_length": 9})
    rules, copy = make_rules(2, [0, 1], rows), SlotRules.allocate(2, "cpu")
    assert copy.top_ps.tolist() == copy.repetition_penalties.tolist() == [1.0, 1.0]
    copy.scalars.copy_(rules.scalars)
    assert (copy.seeds.tolist(), copy.top_ps.tolist()) == ([2**63 - 1, 0], [0.25, 1.0])
    assert (copy.num_masked.tolist(), copy.min_lengths.tolist()) == ([0, 2], [0, 9])


def test_a_slot_forgets_its_last_rules():
    rules = make_rules(1, [0], ({"temperature": 0.5, "top_k": 5, "biases": {3: 1.0}, "masked_ids": (1,)},))
    rules.set(0)
    assert torch.equal(rules.scalars, SlotRules.allocate(1, "cpu").scalars)


def test_a_step_that_is_off_is_not_taken(seeded):
    batch = make(Case(50, ({"temperature": 5.0, "top_k": 1, "biases": {3: 100.0}},)), seeded)
    best, (_, second) = int(batch.logits.argmax()), batch.logits[0].topk(2).indices.tolist()
    assert second != best

    def sampled(needs: Needs) -> int:
        return int(sample(batch.logits, batch.slots, batch.positions, batch.rules, batch.history, needs=needs))

    assert sampled(Needs()) == 3
    assert sampled(Needs(edits=False)) == best
    assert sampled(Needs(draws=False, edits=False)) == best
    assert sampled(Needs(filters=False, edits=False)) == int(
        (batch.logits[0] / 5.0 + reference.gumbel(0, int(batch.positions[0]), 50)).argmax()
    )


def test_a_cpu_imports_no_triton():
    """Neither the modules of our Triton kernels nor, therefore, their compiler."""
    program = (
        "import sys, torch, kernels.gather_rows, kernels.rope, kernels.top_logprobs\n"
        "from kernels import gated_activation, rms_norm, sampling\n"
        "x = torch.ones(1, 8)\n"
        "sampling.greedy(rms_norm.rms_norm(gated_activation.silu_and_mul(x), torch.ones(4), 1e-5))\n"
        "print([name for name in sys.modules if name.startswith('kernels.') and 'triton' in name])"
    )
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
