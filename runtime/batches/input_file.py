"""Reads the input file of a batch: its lines, and whether each is a request that can be run.

A line is `{"custom_id", "method": "POST", "url", "body": {…}}`. Codes of errors are OpenAI's. Plain functions, for a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from runtime.batch_port import LineError
from runtime.batches.database import Line

MAX_ERRORS = 50
MAX_CUSTOM_ID_CHARS = 512


class Request(msgspec.Struct):
    """A line. What is wrong with its body beyond the model is for the endpoint to say."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    model: str


class InputRules(msgspec.Struct, frozen=True):
    """What the lines of a batch must keep to."""

    endpoint: str
    is_served: Callable[[str], bool]
    """Whether a model of this name is served here."""
    max_lines: int
    max_line_bytes: int


def read_lines(path: Path, rules: InputRules) -> tuple[list[Line], list[LineError]]:
    """All lines, and what is wrong with them; no more than `MAX_ERRORS` errors are looked for. Raises `OSError`."""
    reader = _Reader(rules)
    with path.open("rb") as stream:
        while len(reader.errors) < MAX_ERRORS and len(reader.lines) <= rules.max_lines and reader.read(stream):
            pass
    if len(reader.lines) > rules.max_lines:
        reader.errors.append(LineError("too_many_tasks", f"A batch has at most {rules.max_lines} requests."))
    if not reader.lines and not reader.errors:
        reader.errors.append(LineError("empty_file", "The input file has no requests."))
    return reader.lines, reader.errors


def read_body(path: Path, line: Line) -> bytes:
    """The JSON body of a line that has passed. Raises `OSError`."""
    with path.open("rb") as stream:
        stream.seek(line.start)
        return bytes(msgspec.json.decode(stream.read(line.size), type=Request).body)


class _Reader:
    def __init__(self, rules: InputRules) -> None:
        self.lines: list[Line] = []
        self.errors: list[LineError] = []
        self._rules = rules
        self._custom_ids: set[str] = set()
        self._number = 0
        self._start = 0

    def read(self, stream: BinaryIO) -> bool:
        """The next line; False at the end. Empty lines count, but are nothing."""
        line = stream.readline(self._rules.max_line_bytes + 1)
        self._number += 1
        if len(line) > self._rules.max_line_bytes:
            self._refuse("line_too_large", f"This line is larger than {self._rules.max_line_bytes} bytes.")
            return False
        if line.strip():
            self._check(line)
        self._start += len(line)
        return bool(line)

    def _check(self, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.ValidationError as error:
            self._refuse_shape(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._refuse("invalid_json_line", "This line is not parseable as valid JSON.")
        else:
            self._check_request(request, len(line))

    def _check_request(self, request: Request, size: int) -> None:
        if request.custom_id in self._custom_ids:
            self._refuse("duplicate_custom_id", "The custom_id of this line is that of an earlier one.", "custom_id")
        elif not 0 < len(request.custom_id) <= MAX_CUSTOM_ID_CHARS:
            self._refuse("invalid_custom_id", f"The custom_id must have 1 to {MAX_CUSTOM_ID_CHARS} characters.", "custom_id")
        elif request.method != "POST":
            self._refuse("invalid_method", "The method must be POST.", "method")
        elif request.url != self._rules.endpoint:
            self._refuse("invalid_url", f"The url must be that of the batch, {self._rules.endpoint}.", "url")
        elif self._check_body(bytes(request.body)):
            self._add(Line(self._number, request.custom_id, self._start, size))

    def _check_body(self, body: bytes) -> bool:
        try:
            model = msgspec.json.decode(body, type=_Body).model
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            is_missing = "required field `model`" in str(error)
            code = "missing_required_parameter" if is_missing else "invalid_body"
            self._refuse(code, "The body must be an object with a model.", "body.model")
            return False
        if not self._rules.is_served(model):
            self._refuse("model_not_found", "The model of this line is not served here.", "body.model")
            return False
        return True

    def _add(self, line: Line) -> None:
        self._custom_ids.add(line.custom_id)
        self.lines.append(line)

    def _refuse_shape(self, message: str) -> None:
        """JSON, but no request: say which field is missing or wrong."""
        fields = [name for name in Request.__struct_fields__ if f"`{name}`" in message or f"$.{name}`" in message]
        code = "missing_required_parameter" if "required field" in message else "invalid_request"
        self._refuse(code, message + ".", fields[0] if fields else None)

    def _refuse(self, code: str, message: str, param: str | None = None) -> None:
        self.errors.append(LineError(code, message, self._number, param))
