"""The comparison of devices: the CPU agrees with itself, and one other token is found."""

from __future__ import annotations

import pytest

from perf import agreement, shapes
from perf.agreement import PROMPT_LENGTHS, Generation


def test_the_cpu_agrees_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    agreement.main(["--device", "cpu", "--shape", "tiny"])
    assert capsys.readouterr().out == "tiny: the same token ids as on the CPU, 232 tokens in\n"


@pytest.mark.parametrize("side", ["together", "alone"])
def test_another_token_is_found(side: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def generate(shape: str, flags: list[str]) -> Generation:
        ids = {name: [[row, 5, 6] for row in range(len(PROMPT_LENGTHS))] for name in ("together", "alone")}
        if flags[-1] == "cuda":
            ids[side][1] = [1, 5, 7]
        return Generation(**ids)

    monkeypatch.setattr(agreement, "generate", generate)
    with pytest.raises(SystemExit):
        agreement.main(["--shape", "tiny"])
    assert f"for the prompt of 17 tokens, {side}, from token 2 on" in capsys.readouterr().out


def test_a_shape_that_is_not_served_is_no_disagreement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = shapes.read
    monkeypatch.setattr(shapes, "read", lambda name: read(name) | {"architectures": ["NoSuchForCausalLM"]})
    agreement.main(["--device", "cpu", "--shape", "tiny"])
    assert capsys.readouterr().out.startswith("tiny: skipped: the architecture NoSuchForCausalLM is not supported")
