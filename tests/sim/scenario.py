"""What happens in one run: the server's configuration, its requests and how clients treat them, and what breaks.

All of it is drawn before the run begins, from the same choices as everything else. Sizes are tiny on purpose: a pool of three
pages and a batch of one slot meet every corner that a large server meets once a week.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from runtime.config import CacheConfig, Config, HttpConfig, SchedulerConfig
from runtime.executor.port import ExecutorLimits
from runtime.messages import (
    AbortCause,
    ContinueGeneration,
    InspectPool,
    Message,
    PauseGeneration,
    PauseMode,
    Probe,
    ReadWeights,
    ReleaseMemory,
    ResumeMemory,
    Scrape,
    StartProfile,
    UpdateWeights,
)
from runtime.params import GrammarSpec, LogprobOptions, Prompt, SamplingParams, TextOptions, TextPrompt, TokenPrompt
from tests.fakes.compiler import BROKEN_GRAMMAR
from tests.sim import vocabulary
from tests.sim.choices import Choices
from tests.sim.mailbox import Weather

EDGES = ("http", "tokenizer", "detokenizer", "metrics")
ENGINE = ("scheduler", "cache", "grammar")
POLICIES = ("fcfs", "fcfs", "lpm", "dfs-weight", "random", "priority")
BURST_AT_S = 0.5
GRAMMARS = ("a*", "b*", "c+", "d|e", "f", BROKEN_GRAMMAR)
ORDER_DEADLINE_S = 1_000.0
NO_DEADLINE_S = 1e5
"""Longer than any run, so that a request that is stuck is not saved by its deadline."""

FaultKind = Literal["slow", "invalid", "failed", "fatal"]


@dataclass(frozen=True)
class Departure:
    """A client that ends its request itself: after some tokens, or some seconds after it was sent."""

    cause: AbortCause
    after_tokens: int | None = None
    after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Script:
    """One client: when it comes, what it asks (`n` sequences of one prompt), how it reads and whether it leaves."""

    at_s: float
    prompt: Prompt
    params: tuple[SamplingParams, ...]
    text: TextOptions
    priority: int
    departure: Departure | None
    grammar: GrammarSpec | None
    """Scripted; `BROKEN_GRAMMAR` can not be compiled."""
    logprobs: LogprobOptions | None
    returns_hidden_states: bool
    read_pause_s: float
    stream_interval: int | None


@dataclass(frozen=True)
class ActorCrash:
    """Actor `name` fails at the `nth` message that it receives, before or after it has handled it."""

    name: str
    nth: int
    when: Literal["before", "after"]


@dataclass(frozen=True)
class StepFault:
    """The executor's `nth` plan: the step raises, kills the engine, yields rows that are not finite, or is slow."""

    nth: int
    kind: FaultKind


@dataclass(frozen=True)
class Ask:
    """A question to an actor, and how long the asker waits for the answer."""

    at_s: float
    name: str
    message: Message
    deadline_s: float


@dataclass(frozen=True)
class Drainage:
    """The server stops taking requests and gives those that are open some time to end."""

    at_s: float
    deadline_s: float


@dataclass(frozen=True, kw_only=True)
class Scenario:
    seed: int
    config: Config
    limits: ExecutorLimits
    weather: Weather
    step_s: float
    scripts: tuple[Script, ...]
    flushes_s: tuple[float, ...]
    asks: tuple[Ask, ...]
    drain: Drainage | None
    crashes: tuple[ActorCrash, ...]
    step_faults: tuple[StepFault, ...]
    orders: tuple[Ask, ...]
    """Commands to the engine; each is answered if nothing breaks."""
    compile_s: float
    """What a grammar takes to compile."""
    num_kept_grammars: int
    compile_faults: tuple[int, ...]
    """The grammars that fail to compile although nothing is wrong with them, in the order in which they are begun."""

    @property
    def aborts(self) -> bool:
        """Whether an order aborts requests, which nobody asked for."""
        messages = [order.message for order in self.orders]
        return any(
            (isinstance(message, PauseGeneration) and message.mode == "abort")
            or (isinstance(message, UpdateWeights) and message.aborts_all)
            for message in messages
        )

    @property
    def is_calm(self) -> bool:
        """Nothing breaks, so no request has an excuse to fail."""
        return not self.crashes and not any(fault.kind != "slow" for fault in self.step_faults)


def draw(choices: Choices) -> Scenario:
    limits = _draw_limits(choices)
    longest = max(2, min(40, limits.num_pages * limits.page_size - 4, limits.context_length - 16))
    stems = [_draw_tokens(choices, longest) for _ in range(choices.between(1, 4, "stems"))]
    num_scripts = choices.between(1, choices.pick((3, 12, 40), "crowd"), "scripts")
    is_rough = choices.chance(0.5, "rough")
    return Scenario(
        seed=choices.seed,
        config=_draw_config(choices, limits),
        limits=limits,
        weather=_draw_weather(choices),
        step_s=choices.pick((0.01, 0.1, 0.0, 0.1), "step time"),
        scripts=tuple(_draw_script(choices, stems) for _ in range(num_scripts)),
        flushes_s=tuple(choices.seconds(2.0, "flush") for _ in range(choices.pick((0, 0, 1, 3), "flushes"))),
        asks=tuple(_draw_ask(choices) for _ in range(choices.pick((0, 0, 2), "asks"))),
        drain=_draw_drain(choices) if choices.chance(0.1, "drains") else None,
        crashes=_draw_crashes(choices) if is_rough else (),
        step_faults=_draw_step_faults(choices) if is_rough else (),
        orders=_draw_orders(choices) if choices.chance(0.3, "orders") else (),
        compile_s=choices.pick((0.0, 0.05, 2.0), "compile time"),
        num_kept_grammars=choices.pick((100, 0, 2), "kept grammars"),
        compile_faults=tuple(choices.between(1, 6, "nth grammar") for _ in range(choices.pick((0, 0, 2), "compile faults"))),
    )


def _draw_limits(choices: Choices) -> ExecutorLimits:
    return ExecutorLimits(
        num_pages=choices.pick((64, 3, 4, 6, 8, 12, 20, 32), "pages"),
        page_size=choices.pick((4, 1, 2, 3, 8, 16), "page size"),
        num_slots=choices.between(1, 8, "slots"),
        context_length=choices.pick((80, 24, 48), "context"),
        vocab_size=vocabulary.LOGITS_WIDTH,
    )


def _draw_config(choices: Choices, limits: ExecutorLimits) -> Config:
    return Config(
        http=HttpConfig(request_timeout=choices.pick((NO_DEADLINE_S, NO_DEADLINE_S, NO_DEADLINE_S, 3.0, 0.5), "deadline")),
        scheduler=SchedulerConfig(
            schedule_policy=choices.pick(POLICIES, "policy"),
            schedule_conservativeness=choices.pick((1.0, 0.05, 0.3, 2.0), "conservativeness"),
            max_running_requests=choices.pick((None, limits.num_slots), "max running"),
            max_queued_requests=choices.pick((1000, 1000, 1, 4, 16), "max queued"),
            chunked_prefill_size=choices.pick((16, -1, 1, 2, 5, 64), "budget"),
            disable_overlap_schedule=choices.chance(0.3, "no overlap"),
            random_seed=choices.seed,
        ),
        cache=CacheConfig(page_size=limits.page_size, disable_radix_cache=choices.chance(0.15, "no radix")),
    )


def _draw_weather(choices: Choices) -> Weather:
    return choices.pick(
        (
            Weather(),
            Weather(is_shuffled=False),
            Weather(late_probability=0.05, most_late_s=0.2),
            Weather(late_probability=0.3, most_late_s=0.02),
        ),
        "weather",
    )


def _draw_script(choices: Choices, stems: list[tuple[int, ...]]) -> Script:
    is_burst = choices.chance(0.3, "burst")
    n = choices.pick((1, 1, 1, 1, 2, 3), "n")
    grammar = GrammarSpec("regex", choices.pick(GRAMMARS, "grammar")) if choices.chance(0.2, "constrained") else None
    params = _draw_params(choices)
    if grammar is not None:
        params = msgspec.structs.replace(params, min_new_tokens=0)
    return Script(
        at_s=BURST_AT_S if is_burst else choices.seconds(2.0, "at"),
        prompt=_draw_prompt(choices, stems),
        params=(params,) * n,  # greedy, so that n choices are the same sequence
        text=TextOptions(
            stop=tuple(_draw_stop(choices) for _ in range(choices.pick((0, 0, 1, 1, 2), "stops"))),
            no_stop_trim=choices.chance(0.3, "no stop trim"),
            skip_special_tokens=choices.chance(0.7, "skip special"),
        ),
        priority=choices.between(0, 2, "priority"),
        departure=_draw_departure(choices) if choices.chance(0.3, "leaves") else None,
        grammar=grammar,
        logprobs=_draw_logprobs(choices) if choices.chance(0.2, "logprobs") else None,
        returns_hidden_states=choices.chance(0.05, "hidden states"),
        read_pause_s=choices.pick((0.0, 0.0, 0.0, 0.03, 1.0), "read pause"),
        stream_interval=choices.pick((1, 1, None, 3), "stream interval"),
    )


def _draw_logprobs(choices: Choices) -> LogprobOptions:
    return LogprobOptions(
        num_top=choices.pick((0, 2), "top"),
        token_ids=choices.pick(((), (1, 3)), "chosen"),
        prompt_start=choices.pick((None, 0, 1, 3, 10), "prompt start"),
    )


def _draw_tokens(choices: Choices, most: int) -> tuple[int, ...]:
    num_tokens = choices.between(0, most, "tokens")
    return tuple(choices.below(vocabulary.NUM_PLAIN_TOKENS, "token") for _ in range(num_tokens))


def _draw_prompt(choices: Choices, stems: list[tuple[int, ...]]) -> Prompt:
    if choices.chance(0.02, "much text"):
        return TextPrompt("a much too long text, so long that it is encoded on a thread " * 40)
    if choices.chance(0.15, "as text"):
        num_pieces = choices.between(1, 9, "pieces")
        return TextPrompt("".join(choices.pick(("ab", "c", "d ", "é", "😂"), "piece") for _ in range(num_pieces)))
    stem = choices.pick(stems, "stem")
    shared = stem[: choices.between(0, len(stem), "shared")]
    return TokenPrompt((*shared, *_draw_tokens(choices, 6), choices.below(vocabulary.NUM_PLAIN_TOKENS, "last token")))


def _draw_params(choices: Choices) -> SamplingParams:
    max_new_tokens = None if choices.chance(0.1, "open end") else choices.between(0, 24, "length")
    num_stop_ids = choices.pick((0, 0, 1, 3), "stop ids")
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min(choices.pick((0, 0, 0, 3, 24), "min length"), max_new_tokens or 0),
        temperature=0.0,
        stop_token_ids=tuple(choices.below(vocabulary.LOGITS_WIDTH, "stop id") for _ in range(num_stop_ids)),
        ignore_eos=choices.chance(0.5, "ignore eos"),
    )


def _draw_stop(choices: Choices) -> str:
    return "".join(choices.pick(vocabulary.LETTERS, "stop letter") for _ in range(choices.pick((1, 2, 1), "stop length")))


def _draw_departure(choices: Choices) -> Departure:
    cause: AbortCause = choices.pick(("disconnect", "api"), "cause")
    if choices.chance(0.5, "leaves by time"):
        return Departure(cause, after_s=choices.seconds(choices.pick((0.02, 0.5, 3.0), "patience"), "leaves after"))
    return Departure(cause, after_tokens=choices.between(0, 12, "leaves after tokens"))


def _draw_ask(choices: Choices) -> Ask:
    questions = (("scheduler", Probe()), ("cache", InspectPool()), ("metrics", Scrape()))
    name, message = choices.pick(questions, "asked")
    return Ask(choices.seconds(2.5, "asks at"), name, message, choices.pick((1.0, 0.0), "ask deadline"))


def _draw_orders(choices: Choices) -> tuple[Ask, ...]:
    begun_s, lasts_s = choices.seconds(2.0, "ordered at"), choices.seconds(1.0, "order lasts")
    update = UpdateWeights(model_path=choices.pick(("new", "missing"), "weights"), aborts_all=choices.chance(0.3, "aborts"))
    mode: PauseMode = choices.pick(("abort", "retract", "in_place"), "pause")
    orders: dict[float, Message] = choices.pick(
        (
            {begun_s: PauseGeneration(mode=mode), begun_s + lasts_s: ContinueGeneration()},
            {begun_s: update},
            {begun_s: PauseGeneration(mode=mode), begun_s + lasts_s / 2: update, begun_s + lasts_s: ContinueGeneration()},
            {begun_s: update, begun_s + lasts_s / 2: PauseGeneration(mode=mode), begun_s + lasts_s: ContinueGeneration()},
            {begun_s + 2: ReleaseMemory(), begun_s + 2 + lasts_s: ResumeMemory()},
            {begun_s: ReadWeights(name="w"), begun_s + lasts_s: StartProfile(output_dir="nowhere")},
        ),
        "orders",
    )
    return tuple(Ask(at_s, "scheduler", message, ORDER_DEADLINE_S) for at_s, message in orders.items())


def _draw_drain(choices: Choices) -> Drainage:
    return Drainage(choices.seconds(2.5, "drain"), choices.pick((0.0, 0.2, 2.0), "drain deadline"))


def _draw_crashes(choices: Choices) -> tuple[ActorCrash, ...]:
    """At most three of each group, since a fourth within a minute is meant to end the process."""
    crashes = [_draw_crash(choices, EDGES) for _ in range(choices.pick((0, 1, 2, 3), "edge crashes"))]
    crashes += [_draw_crash(choices, ENGINE) for _ in range(choices.pick((0, 0, 1, 2), "engine crashes"))]
    return tuple(crashes)


def _draw_crash(choices: Choices, names: tuple[str, ...]) -> ActorCrash:
    nth = choices.between(1, choices.pick((5, 40, 150), "how soon"), "nth message")
    return ActorCrash(choices.pick(names, "who"), nth, choices.pick(("before", "after"), "when"))


def _draw_step_faults(choices: Choices) -> tuple[StepFault, ...]:
    """Only the first may lose the engine, which counts as one of its crashes."""
    kinds: list[FaultKind] = ["slow", "invalid", "failed", "fatal"]
    faults = []
    for _ in range(choices.pick((0, 1, 3), "step faults")):
        faults.append(StepFault(choices.between(1, 80, "nth step"), choices.pick(kinds, "fault")))
        kinds = kinds[:3]
    return tuple(faults)
