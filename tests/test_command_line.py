"""The flags are the Config tree: every leaf is one, and an impossible value is one clear line."""

from __future__ import annotations

import msgspec
import pytest

from runtime.command_line import parse
from runtime.config import EMBEDDED_MODEL_NAME, Config, resolve, to_flat
from runtime.errors import ConfigError


def test_no_flags_give_the_resolved_defaults() -> None:
    assert parse([]) == resolve(Config())
    assert parse([]).model.served_model_name == EMBEDDED_MODEL_NAME


def test_flags_carry_sglang_names_and_abbreviations() -> None:
    config = parse(["--model", "folder", "--schedule-policy", "fcfs", "--chunked-prefill-size", "-1", "--disable-radix-cache"])
    assert config.model.model_path == "folder"
    assert config.model.served_model_name == "folder"
    assert config.scheduler.schedule_policy == "fcfs"
    assert config.scheduler.chunked_prefill_size == -1
    assert config.cache.disable_radix_cache


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--port", "70000"], "--port must be from 0 to 65535, not 70000"),
        (["--port", "-1"], "--port"),
        (["--port", "many"], "--port"),
        (["--dtype", "int3"], "--dtype"),
        (["--page-size", "0"], "--page-size"),
        (["--chunked-prefill-size", "0"], "--chunked-prefill-size"),
        (["--schedule-conservativeness", "nan"], "--schedule-conservativeness"),
        (["--max-running-requests", "0"], "--max-running-requests"),
        (["--max-total-tokens", "3"], "--max-total-tokens"),
        (["--mem-fraction-static", "1.5"], "--mem-fraction-static"),
        (["--api-key", ""], "--api-key"),
        (["--json-model-override-args", "[1]"], "--json-model-override-args"),
        (["--json-model-override-args", "{"], "--json-model-override-args"),
    ],
)
def test_an_impossible_value_is_named_in_one_line(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_leaf_is_a_flag_and_has_a_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    help_text = capsys.readouterr().out
    for leaf in [*to_flat(Config()), "api_key"]:
        assert "--" + leaf.replace("_", "-") in help_text


def test_the_flat_view_never_shows_the_key() -> None:
    config = parse(["--api-key", "open sesame"])
    assert "open sesame" not in msgspec.json.encode(to_flat(config)).decode()


def test_a_flag_that_may_be_repeated_is_a_tuple() -> None:
    config = parse(["--logit-processor", "a.b:First", "--logit-processor", "c:Second"])
    assert config.executor.logit_processor == ("a.b:First", "c:Second")
    assert config.executor.logit_processor_names == ("First", "Second")
    assert parse([]).executor.logit_processor == ()
