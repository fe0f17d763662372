"""Loading of the operator's classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.sampling.logit_processor import load_processors

MODULE = """
class Good:
    def process(self, logits, token_ids, num_prompt_tokens, custom_params): ...

class Empty: ...

class Broken:
    def __init__(self):
        raise ZeroDivisionError("broken")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "operators_own.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("package")
def test_a_class_is_found_by_its_name() -> None:
    assert list(load_processors(["operators_own:Good"])) == ["Good"]
    assert load_processors([]) == {}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["operators_own:Bad"], "KeyError"),
        (["operators_own:Empty"], "process"),
        (["operators_own:Broken"], "broken"),
        (["operators_own.Good"], "package.module:Class"),
        (["no_such_module:Good"], "no_such_module"),
        (["operators_own:Good", "operators_own:Good"], "two classes"),
    ],
)
def test_what_can_not_be_loaded_is_a_wrong_flag(paths: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match="--logit-processor") as raised:
        load_processors(paths)
    assert reason in str(raised.value)
