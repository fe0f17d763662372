"""Random weights: the same everywhere, like noise, and no two tensors alike."""

from __future__ import annotations

import zlib

import torch

from runtime.loading import random_weights
from runtime.loading.random_weights import STANDARD_DEVIATION, RandomTensor


def hashed(place: int, name: str) -> int:
    """The 32 bits of a number, counted in Python's own integers."""
    bits = place
    for shift, factor, addend in ((16, 0x7FEB352D, zlib.crc32(name.encode())), (15, 0x2C1B3C6D, 0), (16, 0x297A2D39, 0)):
        bits ^= bits >> shift
        bits = bits * factor % 2**32
        bits ^= bits >> 15
        bits = (bits + addend) % 2**32
    return bits - 2**32 if bits >= 2**31 else bits


def test_numbers_are_those_of_the_hash_wherever_they_are_made() -> None:
    name = "model.layers.3.self_attn.q_proj.weight"
    weight = RandomTensor(name, (70, 2000)).load().view(-1)
    for place in (0, 1, 2, 65535, 65536, 65537, 139_999):
        assert weight[place] == torch.tensor(float(hashed(place, name))) * (STANDARD_DEVIATION * 12**0.5 / 2**32)


def test_numbers_do_not_depend_on_how_many_are_made_at_once(monkeypatch) -> None:
    whole = RandomTensor("a.weight", (300, 500)).load()
    monkeypatch.setattr(random_weights, "_CHUNK_NUMBERS", {"cpu": 777})
    assert torch.equal(RandomTensor("a.weight", (300, 500)).load(), whole)


def test_a_tensor_is_noise() -> None:
    weight = RandomTensor("model.layers.0.mlp.up_proj.weight", (1000, 2000)).load()
    assert abs(weight.mean()) < 1e-4
    assert abs(weight.std() / STANDARD_DEVIATION - 1) < 1e-2
    flat = weight.view(-1) / STANDARD_DEVIATION
    for lag in (1, 2, 2000, 65536):
        assert abs((flat[lag:] * flat[:-lag]).mean()) < 4e-3  # 5 deviations
    largest = torch.linalg.matrix_norm(weight[:500, :500], 2) / STANDARD_DEVIATION
    assert 42 < largest < 47  # 2 * sqrt(500) for a random matrix; one with structure has more


def test_tensors_of_other_names_and_seeds_have_nothing_in_common() -> None:
    names = [f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in range(20) for part in "qko"]
    tensors = [RandomTensor(name, (2**16,)).load() - 1 for name in names]
    tensors += [RandomTensor(names[0], (2**16,), seed=seed).load() - 1 for seed in (1, 2)]
    table = torch.stack(tensors) / STANDARD_DEVIATION
    correlations = (table @ table.T / 2**16).fill_diagonal_(0)
    assert correlations.abs().max() * 2**8 < 5  # deviations


def test_norms_are_around_one_and_biases_around_zero() -> None:
    assert abs(RandomTensor("norm.weight", (4000,)).load().mean() - 1) < 2e-3
    assert abs(RandomTensor("q_proj.bias", (4000,)).load().mean()) < 2e-3


def test_a_tensor_may_be_empty() -> None:
    assert RandomTensor("a.weight", (0, 8)).load().shape == (0, 8)
