"""Runs SGLang's own frontend, in a process of its own: `python -m tests.frontend.sglang_side URL [CASES]`.

`{name}` in URL stands for a program's name. With CASES, a JSON file of random choices, the decisions of SGLang's methods are
printed instead. IPython, which SGLang imports and these programs do not use, is replaced by empty modules.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

METHODS = ("token_length_normalized", "greedy_token_selection", "unconditional_likelihood_normalized")


def import_sglang() -> Any:
    for name in ("IPython", "IPython.display"):
        module = types.ModuleType(name)
        vars(module).update(HTML=None, display=None)
        sys.modules[name] = module
    import sglang

    return sglang


def run_programs(url: str) -> dict[str, str]:
    """The text of each program, or what went wrong; that of a batch is the texts one after the other."""
    sglang = import_sglang()
    from sglang.lang import ir

    from tests.frontend.programs import programs

    texts = {}
    for name, run in programs(sglang, ir).items():
        result = run(sglang.RuntimeEndpoint(url.format(name=name)))
        states = result if isinstance(result, list) else [result]
        texts[name] = "".join(f"error: {state.error()}" if state.error() else state.text() for state in states)
    return texts


def decide(cases: list[dict[str, Any]]) -> list[dict[str, str]]:
    sglang = import_sglang()
    return [{method: vars(sglang)[method](**case).decision for method in METHODS} for case in cases]


def main(url: str, *cases: str) -> None:
    result: Any = decide(json.loads(Path(cases[0]).read_text(encoding="utf-8"))) if cases else run_programs(url)
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
