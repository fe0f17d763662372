"""What each expression of a program does: it says text, asks the backend, or sets what is known of a variable.

Owns the record of what was said, and what that cost. Expressions come one after the other, on the shared loop. The invariant:
`on_set` is called once for each variable that an expression sets, when its value is in the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from frontend import ir
from frontend.backend import Backend, Completion, Prompt, Usage
from frontend.errors import ProgramError
from frontend.media import image_as_base64, video_as_base64
from frontend.reasoning import separated
from frontend.record import Record
from frontend.sampling import Sampling
from frontend.speculation import Generated, SpeculatedText, SpeculatedTurn

BeforeFirst = Callable[[Prompt], Awaitable[None]]


class Execution:
    """`on_change` is called when a stream has grown; `before_first` is awaited with the first prompt that asks the backend."""

    def __init__(
        self,
        backend: Backend,
        sampling: Sampling,
        *,
        is_streaming: bool,
        num_api_spec_tokens: int | None,
        before_first: BeforeFirst | None,
        on_set: Callable[[object], None],
        on_change: Callable[[], None],
    ) -> None:
        self.record = Record(backend.get_chat_template())
        self.usage = Usage()
        self._backend = backend
        self._sampling = sampling
        self._is_streaming = is_streaming
        self._num_api_spec_tokens = num_api_spec_tokens
        self._before_first = before_first
        self._set = on_set
        self._changed = on_change
        self._speculated = SpeculatedText(num_api_spec_tokens or 0)
        self._turn: SpeculatedTurn | None = None

    async def execute(self, item: ir.Expr) -> None:
        """Raises `ProgramError` and the backend's errors."""
        record = self.record
        match item:
            case ir.Text(value):
                self._fill(value)
            case ir.Gen():
                await self._generate(item)
            case ir.Select():
                await self._select(item)
            case ir.Sequence(items):
                for inner in items:
                    await self.execute(inner)
            case ir.Turn(role, body):
                await self.execute(ir.RoleBegin(role))
                if body is not None:
                    await self.execute(body)
                await self.execute(ir.RoleEnd(role))
            case ir.RoleBegin(role):
                self._begin_role(role)
            case ir.RoleEnd(role):
                await self._end_role(role)
            case ir.ScopeBegin(name):
                record.begin_scope(name)
            case ir.ScopeEnd(name):
                record.end_scope(name)
                self._set(name)
            case ir.Image(source):
                record.add_image(await asyncio.to_thread(image_as_base64, source))
            case ir.Video(path, num_frames):
                record.add_image(await asyncio.to_thread(video_as_base64, path, num_frames))
            case ir.SeparateReasoning():
                await self._separate_reasoning(item)
            case _:
                raise ProgramError(f"{type(item).__name__} can not be executed: it only stands in traced programs")

    def _fill(self, text: str) -> None:
        if self._turn is not None:
            self._turn.add_text(text)
            return
        self._speculated.skip(text)
        self.record.fill(text)

    def _begin_role(self, role: str) -> None:
        self.record.begin_role(role)
        if role == "assistant" and self._num_api_spec_tokens is not None and self._backend.is_chat_model:
            self._turn = SpeculatedTurn(self._num_api_spec_tokens)

    async def _end_role(self, role: str) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            if turn.has_generations:
                await self.ready(self.record.prompt())
            for part, completion in await turn.generate(self._backend, self.record.prompt()):
                if isinstance(part, Generated):
                    self._complete(part.name, completion)
                else:
                    self.record.fill(completion.text)
        self.record.end_role(role)

    async def _generate(self, gen: ir.Gen) -> None:
        sampling = gen.sampling.over(self._sampling).stopping_at(self.record.template.stop_str)
        if self._turn is not None:
            self._turn.add_generation(gen.name, sampling)
            return
        prompt = self.record.prompt()
        await self.ready(prompt)
        if self._is_streaming:
            await self._stream(gen.name, prompt, sampling)
        elif self._num_api_spec_tokens is not None:
            self._complete(gen.name, await self._speculated.generate(self._backend, prompt, sampling))
        else:
            self._complete(gen.name, await self._backend.generate(prompt, sampling))

    def _complete(self, name: str | None, completion: Completion) -> None:
        self.record.generated(name, completion.text, completion.meta_info)
        self.usage += completion.usage
        self._set(name)

    async def _stream(self, name: str | None, prompt: Prompt, sampling: Sampling) -> None:
        if self._num_api_spec_tokens is not None:
            raise ProgramError("a program with num_api_spec_tokens can not stream")
        self.record.begin_stream(name)
        usage = Usage()
        async with aclosing(self._backend.stream(prompt, sampling)) as pieces:
            async for piece in pieces:
                self.record.extend_stream(name, piece.text, piece.meta_info)
                usage = piece.usage
                self._changed()
        self.usage += usage
        self._set(name)

    async def _select(self, select: ir.Select) -> None:
        if self._turn is not None:
            raise ProgramError("select can not stand in an assistant turn that is generated with num_api_spec_tokens")
        prompt = self.record.prompt()
        await self.ready(prompt)
        selection = await self._backend.select(prompt, list(select.choices), select.temperature, select.method)
        self._complete(select.name, Completion(selection.decision.decision, selection.decision.meta_info, selection.usage))

    async def ready(self, prompt: Prompt) -> None:
        """Before the backend is asked with `prompt`."""
        before, self._before_first = self._before_first, None
        if before is not None:
            await before(prompt)

    async def _separate_reasoning(self, expr: ir.SeparateReasoning) -> None:
        start = len(self.record.text)
        await self.execute(expr.body)
        if not self._is_streaming and self._turn is None:
            separated(self.record, expr, start)

    async def warm(self) -> None:
        """Have the backend keep all that has been said."""
        prompt = self.record.prompt()
        await self.ready(prompt)
        if prompt.text:
            self.usage += await self._backend.warm(prompt)
