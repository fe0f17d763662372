"""The one configuration: a frozen tree of values. Each leaf is a command line flag, so the tree documents itself.

A field `num_threads: Annotated[int, flag("…")]` becomes `--num-threads`; names are SGLang's where SGLang has the feature.
`resolve` fills in what depends on other values and raises `ConfigError` on values that can not go together; it is pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from runtime.errors import ConfigError


def flag(description: str, *, aliases: tuple[str, ...] = (), metavar: str | None = None) -> msgspec.Meta:
    """What a field means on the command line."""
    return msgspec.Meta(description=description, extra={"aliases": aliases, "metavar": metavar})


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the branches of the tree."""


class ModelConfig(Section, frozen=True, kw_only=True):
    model_path: Annotated[
        str | None,
        flag(
            "Hugging Face folder, .gguf file or hub id; without it the embedded SmolLM2-135M-Instruct is served",
            aliases=("--model",),
        ),
    ] = None
    skip_tokenizer_init: Annotated[bool, flag("load no tokenizer: prompts and results are token ids")] = False
    tokenizer_path: Annotated[str | None, flag("folder or file of the tokenizer, if it is not beside the model")] = None
    load_format: Annotated[
        Literal["auto", "safetensors", "gguf", "dummy"], flag("weight files; dummy makes random weights from config.json")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "half", "float16", "bfloat16", "float", "float32"], flag("compute type of weights and activations")
    ] = "auto"
    activation_bits: Annotated[
        Literal["8", "16", "mixed"],
        flag(
            "rounding of activations that meet quantized weights; mixed: 16 bits for values of attention, else 8; 16 is slowest"
        ),
    ] = "mixed"
    context_length: Annotated[int | None, flag("most tokens of a sequence; by default what the model was made for")] = None
    served_model_name: Annotated[str | None, flag("model name in the API; by default the model path")] = None
    chat_template: Annotated[str | None, flag("file with a Jinja chat template that replaces the model's own")] = None
    tool_call_parser: Annotated[
        str, flag("format in which the model writes tool calls; auto: by its chat template; none: calls stay text")
    ] = "auto"
    reasoning_parser: Annotated[
        str, flag("format in which the model marks its reasoning; auto: by its chat template; none: it stays in the text")
    ] = "none"
    revision: Annotated[str | None, flag("branch, tag or commit of a hub model")] = None
    download_dir: Annotated[str | None, flag("folder for downloaded models")] = None
    json_model_override_args: Annotated[str, flag("JSON object that overrides entries of config.json")] = "{}"
    trust_remote_code: Annotated[bool, flag("accepted for SGLang's sake: code from a model folder is never run")] = False


class HttpConfig(Section, frozen=True, kw_only=True):
    host: Annotated[str, flag("address to listen on")] = "127.0.0.1"
    port: Annotated[int, flag("TCP port to listen on; 0 takes a free one")] = 30000
    api_key: Annotated[str | None, flag("key that clients must send as 'Authorization: Bearer KEY'")] = None
    admin_api_key: Annotated[str | None, flag("key for the operator's paths, which the clients' key then does not open")] = None
    max_body_bytes: Annotated[int, flag("largest request body")] = 32 * 2**20
    request_timeout: Annotated[float, flag("seconds after which a request is ended with an error")] = 600.0
    drain_timeout: Annotated[float, flag("seconds that running requests get to finish after SIGTERM")] = 25.0
    stream_interval: Annotated[int, flag("tokens per stream event")] = 1
    enable_cache_report: Annotated[bool, flag("report cached tokens in the usage of OpenAI replies")] = False


class SchedulerConfig(Section, frozen=True, kw_only=True):
    schedule_policy: Annotated[str, flag("order of the queue: lpm, fcfs, dfs-weight, random or priority")] = "lpm"
    schedule_conservativeness: Annotated[
        float, flag("factor on the expected output of running requests; higher admits fewer and retracts less")
    ] = 1.0
    max_running_requests: Annotated[
        int | None, flag("most sequences in a step; by default 256, or what the cache can hold")
    ] = None
    max_queued_requests: Annotated[int | None, flag("most waiting requests before new ones get 503; by default 1024")] = None
    chunked_prefill_size: Annotated[
        int | None,
        flag("token budget of a step, shared by prefill and decode; -1 is no limit; by default 256 on a CPU, 8192 on a GPU"),
    ] = None
    disable_overlap_schedule: Annotated[bool, flag("plan a step only after the one before has finished")] = False
    random_seed: Annotated[int | None, flag("seed from which requests without one get theirs; by default a new one")] = None
    watchdog_timeout: Annotated[float, flag("seconds without progress after which the engine is declared lost")] = 300.0


class CacheConfig(Section, frozen=True, kw_only=True):
    page_size: Annotated[int, flag("tokens per KV cache page")] = 16
    max_total_tokens: Annotated[int | None, flag("tokens in the KV cache; by default from the free memory")] = None
    mem_fraction_static: Annotated[float | None, flag("share of the memory that weights and KV cache may take")] = None
    disable_radix_cache: Annotated[bool, flag("do not share prefixes between requests")] = False


class ExecutorConfig(Section, frozen=True, kw_only=True):
    device: Annotated[Literal["auto", "cpu", "cuda"], flag("where the model runs; auto: on a GPU where there is one")] = "auto"
    base_gpu_id: Annotated[int, flag("which GPU of this machine, from 0")] = 0
    cuda_graph_max_bs: Annotated[int, flag("largest number of sequences whose decode step is one CUDA graph")] = 256
    disable_cuda_graph: Annotated[bool, flag("launch the kernels of each step one by one")] = False
    attention_backend: Annotated[
        Literal["triton", "flashinfer", "torch_native"] | None, flag("attention on a GPU; by default triton")
    ] = None
    enable_deterministic_inference: Annotated[
        bool, flag("on a GPU: the same tokens whatever else is in a step, at some cost; on a CPU that is always so")
    ] = False
    num_threads: Annotated[int | None, flag("CPU threads of the model; by default one per core")] = None
    logit_processor: Annotated[
        tuple[str, ...],
        flag("class that may change a request's logits, which requests pick by its name; can be given more than once"),
    ] = ()
    """Each as `package.module:Class`."""
    disable_jump_forward: Annotated[bool, flag("sample also the tokens about which a grammar leaves no choice")] = False

    @property
    def logit_processor_names(self) -> tuple[str, ...]:
        """What requests may call for."""
        return tuple(path.rpartition(":")[2] for path in self.logit_processor)


class ParallelConfig(Section, frozen=True, kw_only=True):
    tp_size: Annotated[
        int, flag("processes (ranks) that share each layer of the model", aliases=("--tp", "--tensor-parallel-size"))
    ] = 1
    nnodes: Annotated[int, flag("machines that the ranks are spread over evenly; the server is started on each")] = 1
    node_rank: Annotated[int, flag("which of the machines this is, from 0; HTTP is served on 0")] = 0
    dist_init_addr: Annotated[
        str | None,
        flag(
            "HOST:PORT of machine 0, on which the ranks meet; by default a free port that only this machine can reach",
            aliases=("--nccl-init-addr", "--dist-init-address"),
        ),
    ] = None
    dist_timeout: Annotated[
        int | None, flag("seconds that a rank waits for the others in one exchange of numbers; by default 60")
    ] = None
    rank_secret_file: Annotated[
        str | None, flag("file with the same secret, at least 16 bytes, on all machines, by which their ranks know each other")
    ] = None


class GrammarConfig(Section, frozen=True, kw_only=True):
    grammar_backend: Annotated[
        Literal["auto", "llguidance", "xgrammar"],
        flag("compiler of output constraints; auto chooses for each what is done faithfully"),
    ] = "auto"
    grammar_compile_timeout: Annotated[float, flag("seconds of CPU time that a grammar may take to compile")] = 2.0
    grammar_compile_memory_mb: Annotated[int, flag("megabytes of memory that compiling a grammar may take")] = 1024
    grammar_cache_mb: Annotated[int, flag("megabytes of compiled grammars that are kept")] = 64


class MetricsConfig(Section, frozen=True, kw_only=True):
    enable_metrics: Annotated[bool, flag("accepted for SGLang's sake: /metrics is always there")] = False
    decode_log_interval: Annotated[int, flag("decode steps between two lines of statistics in the log")] = 40
    log_level: Annotated[Literal["debug", "info", "warning", "error"], flag("what is logged")] = "info"
    profile_dir: Annotated[str, flag("folder in which /start_profile writes its traces")] = "callboard_profiles"
    log_requests: Annotated[bool, flag("log the parameters and outcome of each request")] = False


class BatchConfig(Section, frozen=True, kw_only=True):
    file_storage_path: Annotated[
        str, flag("folder of uploaded files and of batches; made at the first upload", aliases=("--file-storage-pth",))
    ] = "callboard_storage"
    max_file_bytes: Annotated[int, flag("largest file that may be uploaded")] = 512 * 2**20
    max_batch_lines: Annotated[int, flag("most requests in a batch")] = 50_000
    max_open_batch_lines: Annotated[
        int | None, flag("most requests of batches that run at once; by default half of what runs at once")
    ] = None


class Config(Section, frozen=True, kw_only=True):
    """Everything the server can be told. Sections group what one part of the server reads."""

    model: ModelConfig = ModelConfig()
    http: HttpConfig = HttpConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    cache: CacheConfig = CacheConfig()
    executor: ExecutorConfig = ExecutorConfig()
    parallel: ParallelConfig = ParallelConfig()
    grammar: GrammarConfig = GrammarConfig()
    metrics: MetricsConfig = MetricsConfig()
    batches: BatchConfig = BatchConfig()


EMBEDDED_MODEL_NAME = "SmolLM2-135M-Instruct"


def resolve(config: Config) -> Config:
    """Fill in the values that depend on others. Raises `ConfigError` that names the flag of the first impossible value."""
    _check_ranges(config)
    _check_ranks(config.parallel)
    _check_override(config.model.json_model_override_args)
    model = msgspec.structs.replace(
        config.model, served_model_name=config.model.served_model_name or config.model.model_path or EMBEDDED_MODEL_NAME
    )
    scheduler = msgspec.structs.replace(
        config.scheduler,
        max_queued_requests=config.scheduler.max_queued_requests or 1024,
    )
    return msgspec.structs.replace(config, model=model, scheduler=scheduler)


def _check_ranges(config: Config) -> None:
    model, http, scheduler, cache = config.model, config.http, config.scheduler, config.cache
    _at_least("context_length", model.context_length, 2)
    _between("port", http.port, 0, 65535)
    _at_least("max_body_bytes", http.max_body_bytes, 1024)
    _at_least("request_timeout", http.request_timeout, 0.001)
    _at_least("drain_timeout", http.drain_timeout, 0)
    _at_least("stream_interval", http.stream_interval, 1)
    _between("schedule_conservativeness", scheduler.schedule_conservativeness, 0, 100)
    _at_least("max_running_requests", scheduler.max_running_requests, 1)
    _at_least("max_queued_requests", scheduler.max_queued_requests, 1)
    if scheduler.chunked_prefill_size != -1:
        _at_least("chunked_prefill_size", scheduler.chunked_prefill_size, 1)
    _at_least("random_seed", scheduler.random_seed, 0)
    _at_least("watchdog_timeout", scheduler.watchdog_timeout, 1)
    _between("page_size", cache.page_size, 1, 1024)
    _at_least("max_total_tokens", cache.max_total_tokens, cache.page_size)
    _between("mem_fraction_static", cache.mem_fraction_static, 0.01, 1)
    _between("num_threads", config.executor.num_threads, 1, 1024)
    _between("base_gpu_id", config.executor.base_gpu_id, 0, 1023)
    _between("cuda_graph_max_bs", config.executor.cuda_graph_max_bs, 1, 1024)
    _at_least("grammar_compile_timeout", config.grammar.grammar_compile_timeout, 0.01)
    _at_least("grammar_compile_memory_mb", config.grammar.grammar_compile_memory_mb, 64)
    _at_least("grammar_cache_mb", config.grammar.grammar_cache_mb, 1)
    _at_least("decode_log_interval", config.metrics.decode_log_interval, 1)
    _at_least("max_file_bytes", config.batches.max_file_bytes, 1)
    _at_least("max_batch_lines", config.batches.max_batch_lines, 1)
    _at_least("max_open_batch_lines", config.batches.max_open_batch_lines, 1)
    for name, key in (("--api-key", http.api_key), ("--admin-api-key", http.admin_api_key)):
        if key == "":
            raise ConfigError(f"{name} must not be empty; leave the flag out to serve without a key")


def _check_ranks(parallel: ParallelConfig) -> None:
    _between("tp_size", parallel.tp_size, 1, 1024)
    _between("nnodes", parallel.nnodes, 1, parallel.tp_size)
    _between("node_rank", parallel.node_rank, 0, parallel.nnodes - 1)
    _at_least("dist_timeout", parallel.dist_timeout, 10)
    if parallel.tp_size % parallel.nnodes != 0:
        raise ConfigError(f"--nnodes {parallel.nnodes} does not divide --tp-size {parallel.tp_size}")
    if parallel.dist_init_addr is not None:
        split_address(parallel.dist_init_addr)
    if parallel.nnodes > 1 and (parallel.dist_init_addr is None or parallel.rank_secret_file is None):
        raise ConfigError(f"--nnodes {parallel.nnodes} needs --dist-init-addr and --rank-secret-file, the same on each machine")


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `--dist-init-addr`, an IPv6 address in brackets. Raises `ConfigError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--dist-init-addr must be HOST:PORT, not {address!r:.100}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _at_least(name: str, value: float | None, low: float) -> None:
    _between(name, value, low, math.inf)


def _between(name: str, value: float | None, low: float, high: float) -> None:
    if value is None or low <= value <= high:
        return
    wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
    raise ConfigError(f"--{name.replace('_', '-')} must be {wanted}, not {value:g}")


def _check_override(source: str) -> None:
    try:
        msgspec.json.decode(source, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"--json-model-override-args must be a JSON object: {error}") from None


def from_flat(values: Mapping[str, Any]) -> Config:
    """The resolved configuration from leaves by field name or alias, as `to_flat` gives them back.

    Raises `ConfigError` on an unknown name, a value of another type or one that is not possible.
    """
    places = {name: place for section in msgspec.structs.fields(Config) for name, place in _places(section.name, section.type)}
    tree: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in places:
            raise ConfigError(f"there is no option {name!r}; `python -m runtime.serve --help` lists them")
        section_name, field = places[name]
        tree.setdefault(section_name, {})[field] = value
    try:
        return resolve(msgspec.convert(tree, Config))
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None


def _places(section_name: str, section: type[Section]) -> Iterator[tuple[str, tuple[str, str]]]:
    """For each name of each leaf, aliases too, as Python spells them: the section and field that it stands for."""
    for field, hint in get_type_hints(section, include_extras=True).items():
        (meta,) = hint.__metadata__
        yield field, (section_name, field)
        for alias in meta.extra["aliases"]:
            yield alias.removeprefix("--").replace("-", "_"), (section_name, field)


def to_flat(config: Config) -> dict[str, Any]:
    """All leaves by field name, as `/get_server_info` shows them; the API keys are left out."""
    leaves: dict[str, Any] = {}
    for section in msgspec.structs.asdict(config).values():
        leaves |= msgspec.structs.asdict(section)
    del leaves["api_key"], leaves["admin_api_key"]
    return leaves
