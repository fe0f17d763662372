"""The programs of SGLang's documentation and of its own tests, written for whichever module is handed in.

Each entry of the result runs one program to its end on a backend, and returns what a user would look at.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

IP_REGEX = r"((25[0-5]|2[0-4]\d|[01]?\d\d?).){3}(25[0-5]|2[0-4]\d|[01]?\d\d?)"
DATE_REGEX = r"[0-9]{2}/[0-9]{2}/[0-9]{4}"
CHARACTER_REGEX = (
    r"\{\n"
    r'    "name": "[\w\d\s]{1,16}",\n'
    r'    "house": "(Gryffindor|Slytherin|Ravenclaw|Hufflepuff)",\n'
    r'    "blood status": "(Pure-blood|Half-blood|Muggle-born)",\n'
    r'    "occupation": "(student|teacher|auror|ministry of magic|death eater|order of the phoenix)",\n'
    r'    "wand": \{\n'
    r'        "wood": "[\w\d\s]{1,16}",\n'
    r'        "core": "[\w\d\s]{1,16}",\n'
    r'        "length": [0-9]{1,2}\.[0-9]{0,2}\n'
    r"    \},\n"
    r'    "alive": "(Alive|Deceased)",\n'
    r'    "patronus": "[\w\d\s]{1,16}",\n'
    r'    "bogart": "[\w\d\s]{1,16}"\n'
    r"\}"
)
SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string"}, "population": {"type": "integer"}}, "required": ["name"]}'
)
PICTURE = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")

Run = Callable[[Any], Any]


def programs(sgl: Any, regexes: Any) -> dict[str, Run]:
    """`sgl` is the module that is imported as such, `regexes` has REGEX_INT and so on. Each takes a backend."""

    @sgl.function
    def text_qa(s, question):
        s += "Q: " + question + "\n"
        s += "A:" + sgl.gen("answer", stop="\n")

    @sgl.function
    def few_shot_qa(s, question):
        s += "The following are questions with answers.\n\n"
        s += "Q: What is the capital of France?\nA: Paris\n"
        s += "Q: What is the capital of Germany?\nA: Berlin\n"
        s += "Q: " + question + "\n"
        s += "A:" + sgl.gen("answer", stop="\n", temperature=0)

    @sgl.function
    def multi_turn_question(s, question_1, question_2):
        s += sgl.system("You are a helpful assistant.")
        s += sgl.user(question_1)
        s += sgl.assistant(sgl.gen("answer_1", max_tokens=32))
        with s.user():
            s += question_2
        with s.assistant():
            s += sgl.gen("answer_2", max_tokens=32)

    @sgl.function
    def tool_use(s, question):
        s += "To answer this question: " + question + ". "
        s += "I need to use a " + sgl.gen("tool", choices=["calculator", "search engine"]) + ". "
        if s["tool"] == "calculator":
            s += "The math expression is" + sgl.gen("expression", stop=".")
        elif s["tool"] == "search engine":
            s += "The key word to search is" + sgl.gen("word", stop=".")

    @sgl.function
    def tip_suggestion(s):
        s += "Here are two tips for staying healthy: 1. Balanced Diet. 2. Regular Exercise.\n\n"
        forks = s.fork(2)
        for i, f in enumerate(forks):
            f += f"Now, expand tip {i + 1} into a paragraph:\n"
            f += sgl.gen("detailed_tip", max_tokens=16, stop="\n\n")
        s += "Tip 1:" + forks[0]["detailed_tip"] + "\n"
        s += "Tip 2:" + forks[1]["detailed_tip"] + "\n"
        s += "In summary" + sgl.gen("summary", max_tokens=16)

    @sgl.function
    def parallel_sample(s, question, n):
        s += "Question: Compute 1 + 2 + 3\nReasoning: I need to use a calculator.\nTool: calculator\nAnswer: 6\n\n"
        s += "Question: " + question + "\n"
        forks = s.fork(n)
        forks += sgl.gen("reasoning", max_tokens=8, stop="\n", temperature=0.7)
        forks += lambda i: f"\nSample {i}"
        forks.join()

    @sgl.function
    def parallel_decoding(s, topic):
        s += "USER: Give some tips for " + topic + ".\n"
        s += "ASSISTANT: Okay. Here are 3 concise tips, each under 8 words:\n"
        for i in range(1, 4):
            s += f"{i}." + sgl.gen(max_tokens=8, stop=[".", "\n"]) + ".\n"
        forks = s.fork(3)
        for i in range(3):
            forks[i] += f"Now, I expand tip {i + 1} into a detailed paragraph:\nTip {i + 1}:"
            forks[i] += sgl.gen("detailed_tip", 8, stop=["\n\n"])
        forks.join()
        s += "Here are these tips with detailed explanation:\n"
        for i in range(3):
            s += f"Tip {i + 1}:" + forks[i]["detailed_tip"] + "\n"
        s += "\nIn summary," + sgl.gen("summary", max_tokens=16)

    @sgl.function
    def regex_ip(s):
        s += "Q: What is the IP address of the Google DNS servers?\n"
        s += "A: " + sgl.gen("answer", temperature=0, regex=IP_REGEX)

    @sgl.function
    def regex_dates(s):
        s += "Q: When did the Second World War begin and end, in the form MM/DD/YYYY?\n"
        s += "A: It began on " + sgl.gen("begin", temperature=0, regex=DATE_REGEX)
        s += " and ended on " + sgl.gen("end", temperature=0, regex=DATE_REGEX) + ".\n"

    @sgl.function
    def character(s, name):
        s += name + " is a character in Harry Potter. Please fill in the following information about this character.\n"
        s += sgl.gen("json_output", max_tokens=256, temperature=0, regex=CHARACTER_REGEX)

    @sgl.function
    def city(s):
        s += "Describe Paris as JSON.\n" + sgl.gen("city", max_tokens=64, temperature=0, json_schema=SCHEMA)

    @sgl.function
    def decode_int(s):
        s += "The number of hours in a day is " + sgl.gen_int("hours", max_tokens=8) + "\n"
        s += "The number of days in a year is " + sgl.gen_int("days", max_tokens=8) + "\n"

    @sgl.function
    def typed(s):
        s += "A: The full name is " + sgl.gen("str_res", dtype=str, stop="\n", max_tokens=16) + "\n"
        s += "A: " + sgl.gen("int_res", dtype=int, max_tokens=8) + "\n"
        s += "A: " + sgl.gen("float_res", dtype=float, max_tokens=8) + "\n"
        s += "A: " + sgl.gen("bool_res", dtype="bool", max_tokens=8) + "\n"
        s += "A: " + sgl.gen_string("text_res", max_tokens=16)

    @sgl.function
    def decode_json(s):
        s += "Generate a JSON object to describe the basic city information of Paris.\n"
        with s.var_scope("json_output"):
            s += "{\n"
            s += '  "name": ' + sgl.gen(regex=regexes.REGEX_STR, max_tokens=16) + ",\n"
            s += '  "population": ' + sgl.gen(regex=regexes.REGEX_INT, stop=[" ", "\n"], max_tokens=8) + ",\n"
            s += '  "latitude": ' + sgl.gen(regex=regexes.REGEX_FLOAT, stop=[" ", "\n"], max_tokens=8) + "\n"
            s += "}"

    @sgl.function
    def expert_answer(s, question):
        s += "Question: " + question + "\n"
        s += "A good person to answer this question is" + sgl.gen("expert", max_tokens=8, stop=[".", "\n"]) + ".\n"
        s += "For example," + s["expert"] + " would answer that " + sgl.gen("answer", max_tokens=16, stop=".") + "."

    @sgl.function
    def react(s, question):
        s += "Question: " + question + "\n"
        for i in range(1, 3):
            s += f"Thought {i}:" + sgl.gen(stop=[".", "\n"], max_tokens=8) + ".\n"
            s += f"Action {i}: " + sgl.select(f"action_{i}", ["Search", "Finish"])
            if s[f"action_{i}"] == "Search":
                s += " [" + sgl.gen(stop="]", max_tokens=8) + "].\n"
            else:
                s += " [" + sgl.gen("answer", stop="]", max_tokens=8) + "].\n"
                break

    @sgl.function
    def true_or_false(s, statement, method):
        s += "Determine whether the statement below is True, False, or Unknown.\n"
        s += "Statement: " + statement + "\n"
        s += "Answer:" + sgl.select("answer", ["True", "False", "Unknown"], choices_method=method)

    @sgl.function
    def chat_example(s):
        s += sgl.system("You are a helpful assistant.")
        s += sgl.user_begin()
        s += "What is the capital of France?"
        s += sgl.user_end()
        s += sgl.assistant_begin()
        s += "The capital is " + sgl.gen("capital", max_tokens=8, stop=".")
        s += sgl.assistant_end()

    @sgl.function
    def scored(s):
        s += "The sky is" + sgl.gen(
            "colour", 4, return_logprob=True, logprob_start_len=0, top_logprobs_num=2, return_text_in_logprobs=True
        )

    @sgl.function
    def sampled(s):
        s += "Once" + sgl.gen("story", 8, 2, ["\n", "END"], [0], 0.5, 0.9, 40, 0.05, 0.1, 0.2, True)

    @sgl.function
    def image_qa(s, question):
        s += sgl.user(sgl.image(PICTURE) + question)
        s += sgl.assistant(sgl.gen("answer", max_tokens=8))

    def with_run(program: Any, /, *args: Any, **kwargs: Any) -> Run:
        def run(backend: Any) -> Any:
            state = program.run(*args, backend=backend, **kwargs)
            state.sync()
            return state

        return run

    def batch(backend: Any) -> Any:
        questions = ["What is the capital of the UK?", "What is the capital of Japan?", "What is the capital of China?"]
        return few_shot_qa.run_batch([{"question": question} for question in questions], backend=backend, progress_bar=True)

    def streamed(backend: Any) -> Any:
        state = text_qa.run(question="What is the capital of France?", temperature=0.1, stream=True, backend=backend)
        assert "".join(state.text_iter("answer"))
        return state

    def bound(backend: Any) -> Any:
        state = text_qa.bind(question="Who?").run(backend=backend, max_new_tokens=4, stop=["Q:"])
        state.sync()
        return state

    return {
        "text_qa": with_run(text_qa, question="What is the capital of France?", max_new_tokens=16, temperature=0),
        "multi_turn": with_run(multi_turn_question, question_1="Who are you?", question_2="Say it shorter.", temperature=0),
        "tool_use": with_run(tool_use, question="What is 2 + 2?", max_new_tokens=8),
        "tip_suggestion": with_run(tip_suggestion),
        "parallel_sample": with_run(parallel_sample, question="Compute 5 + 2 + 4", n=3),
        "parallel_decoding": with_run(parallel_decoding, topic="sleeping", temperature=0.3),
        "regex_ip": with_run(regex_ip),
        "regex_dates": with_run(regex_dates),
        "character": with_run(character, "Hermione Granger"),
        "city": with_run(city),
        "decode_int": with_run(decode_int, temperature=0.1),
        "typed": with_run(typed),
        "decode_json": with_run(decode_json, temperature=0),
        "expert_answer": with_run(expert_answer, question="What is the capital of France?", temperature=0.1),
        "react": with_run(react, question="What country does the creator of Linux live in?", temperature=0.1),
        "select": with_run(true_or_false, statement="Rome is in Italy.", method=sgl.token_length_normalized),
        "select_greedy": with_run(true_or_false, statement="Rome is in Italy.", method=sgl.greedy_token_selection),
        "select_unconditional": with_run(
            true_or_false, statement="Rome is in Italy.", method=sgl.unconditional_likelihood_normalized
        ),
        "chat_example": with_run(chat_example, temperature=0),
        "scored": with_run(scored),
        "sampled": with_run(sampled),
        "image_qa": with_run(image_qa, question="What is in the picture?"),
        "batch": batch,
        "streamed": streamed,
        "bound": bound,
    }
