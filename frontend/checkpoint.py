"""A file by which a batch goes on where it stopped: a line of JSON for each program that finished without an error.

A line counts for the program with the same place in the batch, the same function and the same arguments and sampling
settings; everything else is run again. A last line that was cut off is ignored.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frontend.backend import Usage
from frontend.errors import CheckpointError
from frontend.launch import Call
from frontend.record import Record, Span
from frontend.state import ProgramState

log = logging.getLogger("frontend")


class Checkpoint:
    """Reads `path` once, and appends to it as programs finish."""

    def __init__(self, path: str | Path) -> None:
        """Raises `CheckpointError` if the file is not one."""
        self._path = Path(path)
        self._rows = _read(self._path)

    def restore(self, index: int, call: Call) -> ProgramState | None:
        """The finished state, if the file has it."""
        row = self._rows.get(index)
        if row is None or row["key"] != key_of(call):
            return None
        interpreter = call.interpreter()
        _fill(interpreter.record, row)
        interpreter.execution.usage = Usage(**row["usage"])
        state = ProgramState(interpreter)
        state.ret_value = row["ret_value"]
        return state

    def save(self, index: int, call: Call, state: ProgramState) -> None:
        """Only what finished and can be written as JSON; the log names the variable that can not."""
        record = state.finished_record()
        if record is None:
            return
        row = {
            "index": index,
            "key": key_of(call),
            "text": record.text,
            "messages": record.messages,
            "variables": record.variables,
            "meta_info": record.meta_info,
            "spans": [asdict(span) for span in record.spans],
            "usage": asdict(state.usage()),
            "ret_value": state.ret_value,
        }
        if (unwritable := _unwritable(row)) is not None:
            log.warning("program %d is not in the checkpoint: %s can not be written as JSON", index, unwritable)
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def key_of(call: Call) -> str:
    """Of what decides about a program's result. Arguments count by their `repr`."""
    function = call.function.func
    parts = (function.__module__, function.__qualname__, sorted(call.kwargs.items()), list(call.args), call.sampling)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read(path: Path) -> dict[int, Mapping[str, Any]]:
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")[:-1]  # what follows the last line end was cut off
    if not text.endswith("\n") and text:
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    try:
        rows = [json.loads(line) for line in lines]
        return {row["index"]: row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of run_batch: {error}") from error


def _fill(record: Record, row: Mapping[str, Any]) -> None:
    record.text, record.messages = row["text"], row["messages"]
    record.variables, record.meta_info = row["variables"], row["meta_info"]
    record.spans = [Span(**span) for span in row["spans"]]


def _unwritable(row: Mapping[str, Any]) -> str | None:
    for name, value in (*row["variables"].items(), ("what the function returned", row["ret_value"])):
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            return repr(name)
    return None
