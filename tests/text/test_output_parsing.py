"""What the doors ask for: chained parsers, grammars that make models write what the parsers read, and the choice of formats."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
import xgrammar
from xgrammar.testing import _is_grammar_accept_string

from runtime import extensions
from runtime.clock import SystemClock
from runtime.errors import ConfigError, InvalidRequest
from runtime.output_plan import OutputWish
from runtime.params import GrammarSpec
from runtime.pieces import CallArguments, CallBegin, Piece, ReasoningPiece, TextPiece
from runtime.text.chat_template import ChatTemplate
from runtime.text.output_parsing import OutputParsing
from runtime.text.parsing.cursor import joined
from runtime.text.parsing.formats import REASONING, TOOL_CALLS, check
from tests.text.parsing.samples import TOOL_CALLS as SAMPLES
from tests.text.parsing.samples import TOOLS

CALL_NAMES = extensions.names(TOOL_CALLS)
REQUIRED = OutputWish(tools=TOOLS, tool_choice="required")
ARGUMENTS = '{"city": "Paris", "days": 3}'

WRITTEN = {
    "qwen25": f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>',
    "llama3": f'<|python_tag|>{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
    "mistral": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
    "deepseekv3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
    f"{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseekv31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    f"{ARGUMENTS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "kimi-k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    f"{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>",
    "glm45": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "qwen3-coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "gpt-oss": f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ARGUMENTS}<|call|>",
    "json-array": f'[{{"name": "get_weather", "parameters": {ARGUMENTS}}}]',
    "pythonic": '[get_weather(city="Paris", days=3)]',
}
"""A forced call as each format has it."""

SECTIONS = {
    "deepseekv3": ("<｜tool▁calls▁begin｜>", "\n", "<｜tool▁calls▁end｜>"),
    "deepseekv31": ("<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁end｜>"),
    "gpt-oss": ("", "<|start|>assistant", ""),
    "json-array": ("[", ", ", "]"),
    "kimi-k2": ("<|tool_calls_section_begin|>", "", "<|tool_calls_section_end|>"),
    "llama3": ("<|python_tag|>", "; ", ""),
    "mistral": ("[TOOL_CALLS] [", ", ", "]"),
    "pythonic": ("[", ", ", "]"),
}
"""What is around several calls, and between them."""


def accepts(grammar: GrammarSpec | None, text: str) -> bool:
    assert grammar is not None
    assert grammar.kind == "structural_tag"
    return bool(_is_grammar_accept_string(xgrammar.Grammar.from_structural_tag(grammar.source), text))


def parse(parsing: OutputParsing, wish: OutputWish, output: str) -> list[Piece]:
    make_parser = parsing.plan(wish).make_parser
    assert make_parser is not None
    parser = make_parser()
    return joined([*(piece for character in output for piece in parser.feed(character)), *parser.close()])


def calls_of(pieces: list[Piece]) -> list[Any]:
    names = [piece.name for piece in pieces if isinstance(piece, CallBegin)]
    arguments = [json.loads(piece.text) for piece in pieces if isinstance(piece, CallArguments)]
    return list(zip(names, arguments, strict=True))


def arguments_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, CallArguments))


@pytest.mark.parametrize("name", CALL_NAMES)
def test_a_required_call_is_what_the_parser_reads(name: str) -> None:
    parsing = OutputParsing(name, None)
    grammar = parsing.plan(REQUIRED).grammar
    output = WRITTEN[name]
    assert accepts(grammar, output)
    pieces = parse(parsing, REQUIRED, output)
    assert calls_of(pieces) == [("get_weather", {"city": "Paris", "days": 3})]
    assert not any(isinstance(piece, TextPiece) for piece in pieces)


@pytest.mark.parametrize("name", CALL_NAMES)
def test_a_required_call_can_be_nothing_else(name: str) -> None:
    grammar = OutputParsing(name, None).plan(REQUIRED).grammar
    output = WRITTEN[name]
    assert not accepts(grammar, "")
    assert not accepts(grammar, "Hello.")
    assert not accepts(grammar, output.replace("get_weather", "get_whether"))
    assert not accepts(grammar, output.replace("3", '"three"' if name not in ("glm45", "qwen3-coder") else "three"))
    assert not accepts(grammar, "Hello. " + output)


@pytest.mark.parametrize("name", CALL_NAMES)
def test_parallel_calls_are_one_when_the_client_wants_one(name: str) -> None:
    parsing = OutputParsing(name, None)
    two = SAMPLES[name][0].output
    one = OutputWish(tools=TOOLS, parallel_tool_calls=False)
    assert [called for called, _ in calls_of(parse(parsing, one, two))] == ["get_weather"]
    first = WRITTEN[name]
    grammar = parsing.plan(OutputWish(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)).grammar
    assert accepts(grammar, first)
    many = parsing.plan(REQUIRED).grammar
    begin, separator, end = SECTIONS.get(name, ("", "\n", ""))
    twice = first.removesuffix(end) + separator + first.removeprefix(begin)
    assert accepts(many, twice)
    assert not accepts(grammar, twice)
    assert len(calls_of(parse(parsing, REQUIRED, twice))) == 2


@pytest.mark.parametrize("schema", [None, {}, {"properties": {"city": {}}}, {"type": ["object", "null"]}])
def test_the_arguments_are_an_object_whatever_the_schema_forgets(schema: Any) -> None:
    tools = ({"type": "function", "function": {"name": "now", "parameters": schema}},)
    grammar = OutputParsing("qwen25", None).plan(OutputWish(tools=tools, tool_choice="required")).grammar
    call = '<tool_call>\n{{"name": "now", "arguments": {}}}\n</tool_call>'
    assert accepts(grammar, call.format("{}"))
    for arguments in ("null", '"x"', "[]", "3"):
        assert not accepts(grammar, call.format(arguments))


@pytest.mark.parametrize("name", CALL_NAMES)
def test_a_required_call_that_is_cut_is_no_text(name: str) -> None:
    """What there is of its arguments comes as such; its markup never comes as what the model has to say."""
    parsing = OutputParsing(name, None)
    output = WRITTEN[name]
    whole = parse(parsing, REQUIRED, output)
    for cut in range(len(output)):
        pieces = parse(parsing, REQUIRED, output[:cut])
        assert not any(isinstance(piece, TextPiece) for piece in pieces), output[:cut]
        assert pieces[:1] == whole[: min(len(pieces), 1)]
        # An output that ends where a call may end is taken to have ended there, and half a marker for a part of a value.
        assert arguments_of(whole).startswith(re.sub(r"(\\n)?(</?[a-z_]*)?}?$", "", arguments_of(pieces)))


def test_the_reasoning_before_a_required_call_that_is_cut_is_kept() -> None:
    parsing = OutputParsing("qwen25", "qwen3")
    output = "<think>\nHm.\n</think>\n\n" + WRITTEN["qwen25"][:30]
    for cut in range(len(output)):
        assert not any(isinstance(piece, TextPiece) for piece in parse(parsing, REQUIRED, output[:cut])), output[:cut]
    for cut in range(output.index("<tool_call>") + 1, len(output)):
        assert parse(parsing, REQUIRED, output[:cut]) == [ReasoningPiece("Hm.")]
        whole = parse(parsing, msgspec.structs.replace(REQUIRED, separates_reasoning=False), output[:cut])
        assert whole == [TextPiece("<think>\nHm.\n</think>")]


def test_a_model_without_a_format_is_made_to_write_an_array() -> None:
    parsing = OutputParsing(None, None)
    assert parsing.plan(OutputWish(tools=TOOLS)).make_parser is None
    assert accepts(parsing.plan(REQUIRED).grammar, WRITTEN["json-array"])
    assert calls_of(parse(parsing, REQUIRED, WRITTEN["json-array"])) == [("get_weather", {"city": "Paris", "days": 3})]


def test_reasoning_comes_before_calls() -> None:
    parsing = OutputParsing("qwen25", "qwen3")
    output = "<think>\nA <tool_call>?\n</think>\n\nWell.\n" + WRITTEN["qwen25"]
    pieces = parse(parsing, OutputWish(tools=TOOLS), output)
    assert pieces[:2] == [ReasoningPiece("A <tool_call>?"), TextPiece("Well.")]
    assert calls_of(pieces) == [("get_weather", {"city": "Paris", "days": 3})]
    whole = parse(parsing, OutputWish(separates_reasoning=False, tools=TOOLS), output.replace("<tool_call>?", "?"))
    assert whole[0] == TextPiece("<think>\nA ?\n</think>\n\nWell.")


def test_gpt_oss_reasons_and_calls() -> None:
    parsing = OutputParsing("gpt-oss", "gpt-oss")
    output = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant" + WRITTEN["gpt-oss"]
    assert accepts(parsing.plan(REQUIRED).grammar, output)
    assert accepts(parsing.plan(REQUIRED).grammar, WRITTEN["gpt-oss"])
    pieces = parse(parsing, OutputWish(tools=TOOLS), output)
    assert pieces[0] == ReasoningPiece("Hm.")
    assert calls_of(pieces) == [("get_weather", {"city": "Paris", "days": 3})]
    grammar = parsing.plan(OutputWish(grammar=GrammarSpec("regex", "[ab]+"))).grammar
    assert accepts(grammar, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>ab")
    assert not accepts(grammar, "<|channel|>final<|message|>c")


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        (GrammarSpec("regex", "[0-9]+"), "42", "x"),
        (GrammarSpec("ebnf", 'root ::= "yes" | "no"'), "yes", "maybe"),
        (GrammarSpec("json_object", ""), '{"a": 1}', "[1]"),
        (GrammarSpec("json_schema", '{"type": "integer"}'), "3", '"3"'),
        (GrammarSpec("structural_tag", '{"type":"structural_tag","format":{"type":"const_string","value":"k"}}'), "k", "l"),
        (
            GrammarSpec(
                "structural_tag",
                '{"type":"structural_tag","triggers":["<f"],"structures":[{"begin":"<f>","schema":{"type":"integer"},"end":"</f>"}]}',
            ),
            "so <f>1</f>",
            "so <f>x</f>",
        ),
    ],
)
def test_a_grammar_applies_after_the_reasoning(grammar: GrammarSpec, right: str, wrong: str) -> None:
    wish = OutputWish(grammar=grammar, separates_reasoning=False)
    for parser, may_skip in (("qwen3", True), ("deepseek-r1", False)):
        whole = OutputParsing(None, parser).plan(wish).grammar
        begin = "<think>\nHm.\n" if may_skip else "Hm."
        assert accepts(whole, f"{begin}</think>\n\n{right}")
        assert not accepts(whole, f"{begin}</think>\n\n{wrong}")
        assert accepts(whole, right) == may_skip
    assert OutputParsing(None, None).plan(wish).grammar == grammar


def test_the_prompt_says_whether_the_model_reasons() -> None:
    source = "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    source += "{% elif add_generation_prompt %}<think>\n{% endif %}"
    parsing = OutputParsing("auto", "auto", ChatTemplate(source, {}, SystemClock()))
    assert (parsing.tool_call_parser, parsing.reasoning_parser) == (None, "qwen3")
    grammar = GrammarSpec("regex", "[0-9]+")
    on, off = (OutputWish(grammar=grammar, template_arguments={"enable_thinking": wants}) for wants in (True, False))
    assert parse(parsing, on, "Hm.</think>4") == [ReasoningPiece("Hm."), TextPiece("4")]
    assert parse(parsing, off, "4</think>") == [TextPiece("4</think>")]
    assert parsing.plan(off).grammar == grammar
    assert accepts(parsing.plan(on).grammar, "Hm.</think>4")
    assert not accepts(parsing.plan(on).grammar, "4")
    forced = OutputWish(tools=TOOLS, tool_choice="required", template_arguments={"enable_thinking": False})
    assert accepts(parsing.plan(forced).grammar, WRITTEN["json-array"])
    assert not accepts(parsing.plan(forced).grammar, "Hm.</think>" + WRITTEN["json-array"])
    assert not accepts(parsing.plan(forced).grammar, "<think>Hm.</think>" + WRITTEN["json-array"])


def test_two_grammars_can_not_both_apply() -> None:
    wish = OutputWish(tools=TOOLS, tool_choice="required", grammar=GrammarSpec("regex", "a"))
    with pytest.raises(InvalidRequest) as caught:
        OutputParsing("qwen25", None).plan(wish)
    assert caught.value.failure.param == "tool_choice"


def test_whole_texts() -> None:
    parsing = OutputParsing(None, None)
    assert calls_of(parsing.parse_calls(WRITTEN["kimi-k2"], TOOLS, "kimi_k2")) == [
        ("get_weather", {"city": "Paris", "days": 3})
    ]
    assert parsing.separate("<think>a</think>b", "deepseek-r1") == [ReasoningPiece("a"), TextPiece("b")]
    for call in (lambda: parsing.parse_calls("", TOOLS), lambda: parsing.parse_calls("", TOOLS, "nobody")):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.failure.param == "tool_call_parser"
    for other in (lambda: parsing.separate(""), lambda: parsing.separate("", "nobody")):
        with pytest.raises(InvalidRequest) as caught:
            other()
        assert caught.value.failure.param == "reasoning_parser"


@pytest.mark.parametrize(
    ("template", "calls", "reasoning"),
    [
        ("<tool_call> enable_thinking <think>", "qwen25", "qwen3"),
        ("<tool_call><function= <parameter=", "qwen3-coder", None),
        ("<tool_call>{name}<arg_key><arg_value> enable_thinking <think>", "glm45", "qwen3"),
        ("<｜tool▁calls▁begin｜> ```json <｜Assistant｜><think>", "deepseekv3", "deepseek-r1"),
        ("<｜tool▁calls▁begin｜> <｜Assistant｜> {% if thinking %}<think>{% else %}</think>", "deepseekv31", "deepseek-v3"),
        ("[TOOL_CALLS]", "mistral", None),
        ("<|channel|>analysis functions.", "gpt-oss", "gpt-oss"),
        ("nothing", None, None),
    ],
)
def test_auto_looks_at_the_template(template: str, calls: str | None, reasoning: str | None) -> None:
    parsing = OutputParsing("auto", "auto", ChatTemplate("{% raw %}" + template + "{% endraw %}", {}, SystemClock()))
    assert (parsing.tool_call_parser, parsing.reasoning_parser) == (calls, reasoning)


def test_names_of_other_servers_are_known() -> None:
    check("hermes", "deepseek-r1")
    check("qwen3_coder", "glm45")
    check("auto", "none")
    with pytest.raises(ConfigError, match="kimi-k2"):
        check("nobody", None)
    with pytest.raises(ConfigError, match="deepseek-r1"):
        check(None, "nobody")
    assert len(extensions.names(REASONING)) == 6


def test_special_tokens_stay_where_the_parser_needs_them() -> None:
    plans = {name: OutputParsing(name, None).plan(OutputWish(tools=TOOLS)) for name in CALL_NAMES}
    assert {name for name, plan in plans.items() if not plan.keeps_special_tokens} == {"json-array", "qwen25", "qwen3-coder"}
    assert not OutputParsing("gpt-oss", None).plan(OutputWish()).keeps_special_tokens
