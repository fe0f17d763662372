"""What the tests of sampling go through: what the rows of a batch ask for, as keywords of `SlotRules.set`."""

from __future__ import annotations

from typing import Any, NamedTuple

from kernels.sampling.rules import ALL_STEPS, Needs

Rules = dict[str, Any]


class Case(NamedTuple):
    vocab_size: int
    rows: tuple[Rules, ...]
    needs: Needs = ALL_STEPS
    has_masks: bool = False
    context: int = 64


WARM: Rules = {"temperature": 0.8, "seed": 2**62 + 11}
PENALTIES: Rules = {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": -0.25, "num_prompt_tokens": 20}
EARLY_END: Rules = {"min_length": 1000, "masked_ids": (3, 5, 7, 11)}
BIASES: Rules = {"biases": {2: 4.0, 3: 50.0, 17: -100.0}}

CASES = (
    Case(1, ({}, WARM)),
    Case(63, ({}, {}, {}), Needs(draws=False, filters=False, edits=False)),
    Case(5003, ({}, WARM, WARM | {"temperature": 1e-4}, WARM | {"temperature": 50.0}), Needs(filters=False, edits=False)),
    Case(
        5003,
        (
            WARM | {"top_k": 40},
            WARM | {"top_p": 0.9},
            WARM | {"min_p": 0.1},
            WARM | {"top_k": 300, "top_p": 0.5, "min_p": 0.02},
            WARM | {"top_k": 5003, "top_p": 1.0},
            {"top_k": 3},
            WARM,
        ),
        Needs(edits=False),
    ),
    Case(300, (PENALTIES, WARM | PENALTIES, PENALTIES | BIASES, EARLY_END | BIASES, {}), context=1200),
    Case(300, (WARM | PENALTIES | BIASES | EARLY_END | {"top_k": 20, "top_p": 0.95}, {}, WARM), has_masks=True),
    Case(4099, ({}, WARM), Needs(draws=False, filters=False, edits=False), has_masks=True),
    Case(64, ()),
)
