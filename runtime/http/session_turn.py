"""A request to `/generate` as part of a session: what it continues, and what is kept of it."""

from __future__ import annotations

from types import TracebackType

from runtime.errors import InvalidRequest
from runtime.http.native_format import NativeFormat
from runtime.http.schema.choices import Caller
from runtime.http.schema.generate import GenerateRequest, NativeGenerations, SessionParams, generations_of, prompts_of
from runtime.http.service import Service
from runtime.messages import EncodeTexts, TextRow
from runtime.params import Prompt, TextPrompt, TokenPrompt

PARAM = "session_params"


class SessionTurn:
    """Holds the place of a running request in its session; what does not `finish` is dropped at the end of the block."""

    def __init__(self, service: Service, session_id: str, rid: str) -> None:
        self._service = service
        self._session_id = session_id
        self._rid = rid

    def finish(self, reply: NativeFormat) -> None:
        """Keep the output, if it is complete, so that it can be continued."""
        if reply.is_finished(0):
            self._service.sessions.finish(self._session_id, self._rid, reply.output_ids(0))

    def __enter__(self) -> SessionTurn:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._service.sessions.drop(self._session_id, self._rid)


class TurnEvents:
    """The events of `reply`. The turn can be continued before its client sees the last of them."""

    def __init__(self, reply: NativeFormat, turn: SessionTurn) -> None:
        self._reply = reply
        self._turn = turn

    def of_row(self, index: int, row: TextRow) -> bytes:
        return self._reply.of_row(index, row)

    def at_end(self) -> bytes:
        self._turn.finish(self._reply)
        return self._reply.at_end()


async def generations_in_session(
    service: Service, body: GenerateRequest, session: SessionParams, caller: Caller
) -> tuple[NativeGenerations, SessionTurn]:
    """The one sequence to generate, and its turn. Raises `RequestError`."""
    prompts, is_list = prompts_of(body, service.info)
    if is_list:
        raise InvalidRequest("a session takes one prompt at a time", param=PARAM)
    history = _history(service, session)
    new_ids = await _token_ids(service, prompts[0], continues=bool(history))
    prompt = TokenPrompt((*history, *new_ids), "text" if isinstance(prompts[0], TextPrompt) else "input_ids")
    request = generations_of(body, caller, prompt)
    if len(request.generations) != 1:
        raise InvalidRequest("a session takes one sequence at a time", param="sampling_params.n")
    rid = request.generations[0].label
    service.sessions.begin(session.id, rid, session.rid, prompt.token_ids, service.clock.monotonic())
    return request, SessionTurn(service, session.id, rid)


def _history(service: Service, session: SessionParams) -> list[int]:
    """With `replace`, whatever continued the same request is given up."""
    now = service.clock.monotonic()
    history = service.sessions.history(session.id, session.rid, now, with_output=not session.drop_previous_output)
    if session.offset is not None and session.offset < 0:
        raise InvalidRequest("offset must not be negative", param=f"{PARAM}.offset")
    if session.replace:
        for rid in service.sessions.prune(session.id, session.rid, now):
            service.replies.cancel_labelled(rid)
    return history[: session.offset] if session.offset else history


async def _token_ids(service: Service, prompt: Prompt, *, continues: bool) -> list[int]:
    """Of the new part. What continues another prompt has no beginning of its own."""
    if isinstance(prompt, TextPrompt):
        message = EncodeTexts(texts=(prompt.text,), add_special_tokens=not continues, param="text")
        (token_ids,) = await service.command(service.tokenizer, message)
        return list(token_ids)
    assert isinstance(prompt, TokenPrompt), "the body has no other prompts"
    if not continues or service.info.skips_tokenizer:
        return list(prompt.token_ids)
    (beginning,) = await service.command(service.tokenizer, EncodeTexts(texts=("",)))
    has_beginning = bool(beginning) and prompt.token_ids[0] == beginning[0]
    return list(prompt.token_ids[1:] if has_beginning else prompt.token_ids)
