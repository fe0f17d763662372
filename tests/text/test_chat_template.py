"""Templates render as in transformers, what goes wrong is the client's 400, and nothing gets out of the sandbox."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InvalidRequest, LoadError
from runtime.text import chat_template
from runtime.text.chat_template import RESERVED_ARGUMENTS, ChatTemplate
from tests.text.conftest import CountingClock
from tests.text.templates import CHATML, EXTENSIONS, LLAMA3, MISTRAL, TEMPLATES

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER, ASSISTANT, SYSTEM = (
    {"role": "user", "content": "What is <b>2 + 2</b> & 'why'? 你好"},
    {"role": "assistant", "content": "It is  4 "},
    {"role": "system", "content": " Be brief. "},
)
CONVERSATIONS = {
    "one": [USER],
    "two": [USER, ASSISTANT],
    "three": [USER, ASSISTANT, USER],
    "system": [SYSTEM, USER],
    "tool": [USER, {"role": "tool", "content": "42"}, ASSISTANT, USER, USER],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}]}],
    "empty": [{"role": "user", "content": ""}],
}
TOOLS = [{"type": "function", "function": {"name": "naïve", "parameters": {"type": "object"}}}]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, SPECIAL_TOKENS, CountingClock())


def transformers_render(source: str, turns: list[dict[str, Any]], **options: Any) -> str | None:
    """None where transformers raises."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template(conversations=[turns], chat_template=source, **SPECIAL_TOKENS, **options)
    except (TemplateError, TypeError, ValueError):
        return None
    return str(rendered[0])


def our_render(source: str, turns: list[dict[str, Any]], *, add: bool, cont: bool = False, **arguments: Any) -> str | None:
    tools = arguments.pop("tools", None)
    try:
        return template(source).render(turns, add, cont, tools, arguments)
    except InvalidRequest:
        return None


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_same_as_transformers(source: str, turns: list[dict[str, Any]], add: bool) -> None:
    options = {"date_string": "1 Jan 2025", "tools": TOOLS, "enable_thinking": False}
    expected = transformers_render(source, turns, add_generation_prompt=add, **options)
    assert our_render(source, turns, add=add, **options) == expected


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_a_continued_message_is_the_same_as_in_transformers(source: str, turns: list[dict[str, Any]]) -> None:
    expected = transformers_render(source, turns, continue_final_message=True, date_string="1 Jan 2025")
    assert our_render(source, turns, add=False, cont=True, date_string="1 Jan 2025") == expected


def test_the_comparison_has_texts_and_refusals() -> None:
    assert our_render(MISTRAL, CONVERSATIONS["three"], add=True) is not None
    assert our_render(MISTRAL, CONVERSATIONS["system"], add=True) is None


def test_a_continued_message_ends_where_its_content_ends() -> None:
    assert template(CHATML).render([USER, ASSISTANT], False, True).endswith("<|im_start|>assistant\nIt is  4 ")
    assert template(LLAMA3).render([USER, ASSISTANT], False, True).endswith("\n\nIt is  4")


def test_the_date_is_the_clocks() -> None:
    assert datetime.fromtimestamp(1_700_000_000).strftime("%d %b %Y") in template(LLAMA3).render([USER], True, False)


def test_render_leaves_the_turns_as_they_were() -> None:
    turns = [{**ASSISTANT}]
    template(CHATML).render(turns, False, True)
    assert turns == [ASSISTANT]


@pytest.mark.parametrize(
    ("turns", "add", "message"),
    [
        ([USER, ASSISTANT], True, "can not both"),
        ([], False, "text content"),
        ([{"role": "assistant", "content": None}], False, "text content"),
        ([{"role": "assistant", "content": [{"type": "image"}]}], False, "text content"),
    ],
)
def test_what_can_not_be_continued(turns: list[dict[str, Any]], add: bool, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        template(CHATML).render(turns, add, True)
    assert caught.value.failure.param == "continue_final_message"


def test_a_template_that_drops_the_last_message_can_not_continue_it() -> None:
    with pytest.raises(InvalidRequest, match="does not show"):
        template("{{ messages | length }}").render([ASSISTANT], False, True)


@pytest.mark.parametrize(
    "source", ["{% for m in messages %}", "{{ 1 + }}", "{% nonsense %}", "{% include 'x' %}{{", "{{ x | no }}"]
)
def test_a_template_that_does_not_compile_does_not_load(source: str) -> None:
    with pytest.raises(LoadError, match="does not compile") as caught:
        template(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "turns"),
    [
        ("{{ raise_exception('no') }}", [USER]),
        ("{{ messages[0].content + 1 }}", [USER]),
        ("{{ messages[5].content }}", [USER]),
        ("{{ nothing.at.all }}", [USER]),
        ("{{ messages[0].content.foo() }}", [USER]),
        ("{{ 1 / 0 }}", [USER]),
        ("{{ none | tojson(indent='x', nope=1) }}", [USER]),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", [USER]),
        ("{% include 'other' %}", [USER]),
        ("{{ messages.append(1) }}", [USER]),
        (CHATML, [{"role": "user", "content": None}]),
        (CHATML, [{"content": "no role"}]),
        (CHATML, [{"role": "user", "content": [{"type": "text", "text": "parts"}]}]),
    ],
)
def test_what_a_template_can_not_render_is_a_bad_request(source: str, turns: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        template(source).render(turns, True, False)
    assert caught.value.failure.status == 400
    assert caught.value.failure.param == "messages"
    assert "\n" not in caught.value.failure.message


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(10**9) %}x{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ ([0] * 10**9) | length }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 7 ** 99999999 }}",
        "{% for a in range(50000) %}{{ messages[0].content * 100 }}{% endfor %}",
        "{{ lipsum(n=10**6) }}",
    ],
)
def test_a_render_is_bounded(source: str) -> None:
    with pytest.raises(InvalidRequest):
        template(source).render([USER], True, False)


def test_each_render_has_its_own_loop_budget() -> None:
    loops = template("{% for a in range(90000) %}{% endfor %}{{ range(3) | length }}")
    assert [loops.render([USER], True, False) for _ in range(4)] == ["3"] * 4


ESCAPES = [
    "{{ lipsum.__globals__['os'].popen('touch MARKER').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARKER').read() }}",
    "{{ joiner.__init__.__globals__.os.popen('touch MARKER').read() }}",
    "{{ namespace.__init__.__globals__.os.popen('touch MARKER').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ ('' | attr('__cla' ~ 'ss__')) | attr('__base__') }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{x.__class__.__mro__}'.format_map({'x': ''}) }}",
    "{{ ('{0.__class__}' | format('')).__class__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__closure__ }}",
    "{{ range.__self__ }}",
    "{{ range.__func__.__globals__ }}",
    "{{ dict.__globals__ }}",
    "{{ messages.__class__ }}",
    "{{ tojson.__globals__ }}",
    "{{ namespace(__class__=1) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = dict %}{{ ns }}",
    "{{ (messages | first).__init_subclass__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ config.items() }}",
    "{{ request.application.__globals__ }}",
    "{% import 'os' as os %}{{ os.popen('touch MARKER') }}",
    "{% from 'os' import popen %}{{ popen('touch MARKER') }}",
    "{{ messages.pop() }}",
    "{{ messages[0].update({'role': 'system'}) }}",
]


@pytest.mark.parametrize("attack", ESCAPES)
def test_nothing_leaves_the_sandbox(attack: str, tmp_path: Path) -> None:
    """Every attack ends as an error or as harmless text, and none touches the file."""
    marker = tmp_path / "marker"
    try:
        rendered = template(attack.replace("MARKER", str(marker))).render([dict(USER)], True, False)
    except (LoadError, InvalidRequest):
        rendered = ""
    assert not marker.exists()
    assert not any(leak in rendered for leak in ("<class", "<module", "<function", "<built-in", "__", "0x"))


@pytest.mark.parametrize("attack", ESCAPES)
def test_messages_are_never_templates(attack: str) -> None:
    assert attack in template(CHATML).render([{"role": "user", "content": attack}], True, False)


@pytest.mark.parametrize("name", sorted(RESERVED_ARGUMENTS | {"bos_token", "_private", "__class__"}))
def test_clients_may_not_set_what_the_server_sets(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        template(CHATML).render([USER], True, False, None, {name: []})
    assert caught.value.failure.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    "arguments",
    [
        {f"a{index}": 1 for index in range(chat_template.MAX_ARGUMENTS + 1)},
        {"a": "x" * (chat_template.MAX_ARGUMENT_CHARS + 1)},
        {"a": [[0] * 100] * 101},
    ],
    ids=["names", "characters", "values"],
)
def test_clients_arguments_are_bounded(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="too large"):
        template(CHATML).render([USER], True, False, None, arguments)


def test_clients_arguments_are_variables() -> None:
    assert template(EXTENSIONS).render([USER], True, False, None, {"enable_thinking": False}).endswith("False")
    assert template("{{ turns }} {{ add }}").render([USER], True, False, None, {"turns": 1, "add": 2}) == "1 2"
