"""What a network costs: the weights of known models, and work that agrees with counting by hand."""

from __future__ import annotations

import math

import pytest

from perf import shapes
from perf.network import FeedForward, Network, network_of
from runtime.models.architectures import spec_for
from runtime.models.spec import weight_shapes

PARAMETERS = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-0.6b": 596_049_920,
    "qwen3-30b-a3b": 30_532_122_624,
    "deepseek-v2-lite": 15_706_484_224,
    "smollm2-135m": 134_515_008,
}
"""Of transformers' models from the same configs, norms included."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_are_those_of_the_model(name: str) -> None:
    counted = network_of(shapes.read(name)).num_weights
    assert counted == pytest.approx(PARAMETERS[name], rel=5e-4)
    assert counted < PARAMETERS[name]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-1b", "qwen3-0.6b", "smollm2-135m", "tiny"])
def test_products_are_those_that_the_decoder_loads(name: str) -> None:
    config = shapes.read(name)
    matrices = [shape for shape in weight_shapes(spec_for(config)).values() if len(shape) == 2]
    assert network_of(config).num_weights == sum(map(math.prod, matrices))


def test_a_decode_step_reads_weights_and_cache_once() -> None:
    network = network_of(shapes.read("llama-3.1-8b"))
    work = network.work(1, 1024, 1, weight_bytes=2, cache_bytes=2)
    embedding = 128256 * 4096
    assert work.num_bytes == 2 * (network.num_weights - embedding + 4096) + 1026 * 131072
    assert work.flops == pytest.approx(2 * (network.num_weights - embedding), rel=0.05)


def test_a_step_costs_what_its_tokens_and_pairs_cost() -> None:
    layer = FeedForward(shared=1000)
    network = Network(
        layers=(layer, layer), key_value=10, query_output=20, cached=4, flops_per_key=6, head=500, hidden=8, is_tied=False
    )
    work = network.work(3, 5, 2, weight_bytes=2, cache_bytes=1)
    assert work.num_bytes == 2 * (2 * 1030 + 500 + 6 * 8) + 3 * (5 + 2 + 2) * 8
    products = 6 * 1030 + 6 * 10 + 3 * (20 + 1000 + 500)  # the last layer's keys for all, its rest for three
    pairs = 3 * ((6 + 7) + 7)
    assert work.flops == 2 * products + 6 * pairs


def test_experts_are_read_as_often_as_tokens_choose_them() -> None:
    layer = FeedForward(shared=5, per_expert=100, num_experts=8, num_chosen=2)
    assert layer.touched(1) == pytest.approx(layer.per_token)
    assert layer.per_token < layer.touched(2) < layer.touched(10) < layer.total
    assert layer.touched(1000) == pytest.approx(layer.total)


def test_latent_attention_keeps_one_latent_and_one_rotated_key() -> None:
    assert network_of(shapes.read("deepseek-v2-lite")).cached_per_token == 27 * (512 + 64)
