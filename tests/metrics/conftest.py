"""Messages with defaults, and the exposition as a client's parser sees it."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from runtime.messages import RequestStats, StepStats

Samples = dict[str, float]


def step(**fields: Any) -> StepStats:
    zeros: dict[str, Any] = dict.fromkeys(StepStats.__struct_fields__, 0)
    return StepStats(**(zeros | {"num_total_tokens": 100, "queue_times_s": ()} | fields))


def ended(**fields: Any) -> RequestStats:
    defaults: dict[str, Any] = {
        "outcome": "finished",
        "num_prompt_tokens": 10,
        "num_completion_tokens": 5,
        "num_cached_tokens": 4,
        "is_streaming": True,
        "e2e_s": 3.0,
        "ttft_s": 1.0,
    }
    return RequestStats(**(defaults | fields))


def parse(exposition: bytes) -> Samples:
    """Values by sample name; buckets as `name{le}`."""
    families = text_string_to_metric_families(exposition.decode())
    samples: Samples = {}
    for family in families:
        for sample in family.samples:
            assert sample.labels["model_name"] == "the-model"
            bound = sample.labels.get("le")
            samples[sample.name + (f"{{{bound}}}" if bound else "")] = sample.value
    return samples
