"""What models write, by the format's public name: an output with calls, and the text and calls that it means."""

from __future__ import annotations

import json
from typing import Any

import msgspec

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "tags": {"type": "array"}},
    "required": ["city"],
}
TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
)


class Sample(msgspec.Struct, frozen=True):
    """`calls` are (name, arguments)."""

    output: str
    text: str
    calls: tuple[tuple[str, Any], ...]


HARD = {"city": 'A "quoted" \\ {brace} ]\n</tool_call> ü🎭', "days": 3, "tags": [1, {"x": None}]}
"""Arguments with everything that could be taken for the end of something."""

HARD_JSON = json.dumps(HARD)
BOTH = (("get_weather", HARD), ("now", {}))

TOOL_CALLS: dict[str, tuple[Sample, ...]] = {
    "qwen25": (
        Sample(
            "Let me see.\n<tool_call>\n"
            f'{{"name": "get_weather", "arguments": {HARD_JSON}}}\n</tool_call>\n<tool_call>{{"name": "now"}}</tool_call>\n',
            "Let me see.",
            BOTH,
        ),
        Sample('<tool_call>{"arguments": {}, "name": "now"}</tool_call> Done.', " Done.", (("now", {}),)),
    ),
    "llama3": (
        Sample(
            f'<|python_tag|>{{"name": "get_weather", "parameters": {HARD_JSON}}}; {{"name": "now", "parameters": {{}}}}',
            "",
            BOTH,
        ),
        Sample('{"type": "function", "name": "now", "parameters": {}}', "", (("now", {}),)),
    ),
    "mistral": (
        Sample(
            f'Hm. [TOOL_CALLS] [{{"name": "get_weather", "arguments": {HARD_JSON}}}, {{"name": "now", "arguments": {{}}}}]',
            "Hm.",
            BOTH,
        ),
        Sample(f"[TOOL_CALLS]get_weather[ARGS]{HARD_JSON}[TOOL_CALLS]now[CALL_ID]a1B2c3D4e[ARGS]{{}}", "", BOTH),
    ),
    "deepseekv3": (
        Sample(
            "Hm.\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            f"{HARD_JSON}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{{}}\n```"
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Hm.",
            BOTH,
        ),
    ),
    "deepseekv31": (
        Sample(
            f"Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{HARD_JSON}<｜tool▁call▁end｜>"
            "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Hm.",
            BOTH,
        ),
    ),
    "kimi-k2": (
        Sample(
            "Hm.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
            f"{HARD_JSON}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{{}}"
            "<|tool_call_end|><|tool_calls_section_end|>",
            "Hm.",
            BOTH,
        ),
    ),
    "glm45": (
        Sample(
            "Hm.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>"
            f"{HARD['city']}</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n<arg_key>tags</arg_key>\n"
            f"<arg_value>{json.dumps(HARD['tags'])}</arg_value>\n</tool_call>\n<tool_call>now</tool_call>\n",
            "Hm.",
            BOTH,
        ),
        Sample(
            "<tool_call>get_weather<arg_key>city</arg_key><arg_value>12</arg_value></tool_call>",
            "",
            (("get_weather", {"city": "12"}),),
        ),
    ),
    "qwen3-coder": (
        Sample(
            "Hm.\n<tool_call>\n<function=get_weather>\n<parameter=city>\n"
            f"{HARD['city']}\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=tags>\n{json.dumps(HARD['tags'])}\n"
            "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            "Hm.",
            BOTH,
        ),
        Sample(
            "<function=get_weather><parameter=city>\n\nA\n\n</parameter></function>",
            "",
            (("get_weather", {"city": "\nA\n"}),),
        ),
    ),
    "gpt-oss": (
        Sample(
            "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
            f"{HARD_JSON}<|call|><|start|>assistant to=functions.now<|channel|>commentary json<|message|>{{}}<|call|>",
            "",
            BOTH,
        ),
        Sample(" to=functions.now<|channel|>commentary <|constrain|>json<|message|>{}", "", (("now", {}),)),
    ),
    "json-array": (
        Sample(f'[{{"name": "get_weather", "parameters": {HARD_JSON}}}, {{"name": "now", "parameters": {{}}}}]', "", BOTH),
    ),
    "pythonic": (
        Sample(
            "Hm. [get_weather(city='A \"quoted\" \\\\ {brace} ]\\n</tool_call> ü\\U0001f3ad', days=3,"
            ' tags=[1, {"x": None}]), now()]',
            "Hm.",
            BOTH,
        ),
        Sample("<|python_start|>[now()]<|python_end|>", "", (("now", {}),)),
    ),
}

REASONING: dict[str, tuple[tuple[str, str, str], ...]] = {
    "deepseek-r1": (
        ("<think>\nHm. So.\n</think>\n\nYes.", "Hm. So.", "Yes."),
        ("Hm.</think>Yes. <think>", "Hm.", "Yes. <think>"),
        ("Hm.", "Hm.", ""),
    ),
    "deepseek-v3": (("<think>Hm.</think>Yes.", "Hm.", "Yes."), ("Yes.", "", "Yes.")),
    "qwen3": (
        ("<think>\nHm. 2 < 3\n</think>\n\nYes.\n", "Hm. 2 < 3", "Yes.\n"),
        ("<think>\n\n</think>\n\nYes.", "", "Yes."),
        (" Yes: <think>.", "", " Yes: <think>."),
    ),
    "qwen3-thinking": (("Hm.\n</think>\n\nYes.", "Hm.", "Yes."),),
    "kimi": (("◁think▷Hm.◁/think▷Yes.", "Hm.", "Yes."), ("Yes.", "", "Yes.")),
    "gpt-oss": (
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
            "Hm.",
            "Yes.",
        ),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Now.<|end|>"
            "<|start|>assistant<|channel|>commentary to=functions.now json<|message|>{}<|call|>",
            "Hm.",
            "Now.<|start|>assistant<|channel|>commentary to=functions.now json<|message|>{}<|call|>",
        ),
        ("Yes.", "", "Yes."),
    ),
}
