"""A model that two rank processes share: the same answers as one rank, and nothing left of any rank when one is lost.

What is about answers runs the embedded model. What is about the life of ranks runs a small random one, which starts at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from runtime.engine import Engine
from runtime.errors import Unavailable
from tests.e2e.client import GenerateClient
from tests.e2e.server_process import READY, ServerProcess

NOTICE_S = 10.0
"""A lost rank is noticed in this time."""
FLOAT32 = ["--dtype", "float32", "--num-threads", "1", "--max-running-requests", "8"]
TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768,
}
PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a lighthouse keeper who",
    "Water boils at",
    "The three primary colours are",
    "def fibonacci(n):",
    "My favourite season is winter, because",
]
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def tiny_options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small model with random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    sizes = {"num_threads": 1, "max_total_tokens": 65536}
    return {"model_path": str(folder), "load_format": "dummy", "skip_tokenizer_init": True, **sizes}


@pytest.fixture(scope="module")
def tiny(tiny_options: dict[str, Any]) -> list[str]:
    """The same as flags, shared by two ranks."""
    flags = ["--tp", "2"]
    for name, value in tiny_options.items():
        flags += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return flags


@contextlib.contextmanager
def started(arguments: list[str], log_path: Path) -> Iterator[tuple[ServerProcess, list[psutil.Process]]]:
    """A server that is ready, and its rank processes; whatever is left of them is killed, and is a failure."""
    server = ServerProcess(arguments, log_path)
    family: list[psutil.Process] = []
    try:
        server.wait_until_ready()
        family = psutil.Process(server.process.pid).children(recursive=True)
        yield server, [process for process in family if "runtime.rank" in process.cmdline()]
    finally:
        server.stop()
        left = gone_or_killed(family)
    assert left == []


def gone_or_killed(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after the time in which they should have noticed."""
    _, left = psutil.wait_procs(processes, timeout=NOTICE_S)
    for process in left:
        process.kill()
    return left


# ---------------------------------------------------------------------------------------------------------------------
# Answers


@pytest.fixture(scope="module")
def expected(embedded_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """The token ids of one rank."""
    server = ServerProcess([*FLOAT32, "--max-total-tokens", "8192"], tmp_path_factory.mktemp("one") / "log")
    try:
        server.wait_until_ready()
        return asyncio.run(answers(server.url))
    finally:
        server.stop()


@pytest.fixture(scope="module")
def shared(embedded_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, psutil.Process]]:
    """Two ranks with a cache that is too small for all prompts at once; it ends by SIGTERM, properly."""
    flags = [*FLOAT32, "--tp", "2", "--max-total-tokens", "128", "--schedule-conservativeness", "0"]
    with started(flags, tmp_path_factory.mktemp("two") / "log") as (server, (rank,)):
        yield server, rank
        assert server.stop() == 0, server.log
        assert gone_or_killed([rank]) == []


async def answers(url: str, num_tokens: int = NUM_TOKENS) -> list[list[int]]:
    async with GenerateClient(url) as client:
        replies = await asyncio.gather(*(client.generate(prompt, num_tokens, ignore_eos=True) for prompt in PROMPTS))
        return [reply["output_ids"] for reply in replies]


async def leave_early(client: GenerateClient, prompt: str, num_events: int) -> None:
    """A client that closes its socket in the middle of a stream."""
    body = {"text": prompt, "stream": True, "sampling_params": {"max_new_tokens": 100, "ignore_eos": True}}
    async with client.session.post(client.url + "/generate", data=orjson.dumps(body)) as response:
        for _ in range(num_events):
            await response.content.readline()
        response.close()


def test_two_ranks_answer_as_one_under_load_with_aborts_and_retraction(
    expected: list[list[int]], shared: tuple[ServerProcess, psutil.Process]
) -> None:
    server, _ = shared

    async def run() -> list[list[int]]:
        async with GenerateClient(server.url) as client:
            leavers = [leave_early(client, f"Leaver {number} says", number) for number in range(4)]
            results, *_ = await asyncio.gather(answers(server.url), *leavers)
            metrics = await (await client.session.get(server.url + "/metrics")).text()
        (num_retractions,) = re.findall(r"^callboard:retractions_total\S* (\S+)$", metrics, re.MULTILINE)
        assert float(num_retractions) > 0
        return results

    assert asyncio.run(run()) == expected


def test_a_slow_rank_is_waited_for(expected: list[list[int]], shared: tuple[ServerProcess, psutil.Process]) -> None:
    server, rank = shared
    done = threading.Event()

    def slow_down() -> None:
        while not done.wait(0.1):
            rank.suspend()
            done.wait(0.1)
            rank.resume()

    pulses = threading.Thread(target=slow_down)
    pulses.start()
    try:
        assert asyncio.run(answers(server.url, 8)) == [token_ids[:8] for token_ids in expected]
    finally:
        done.set()
        pulses.join()


# ---------------------------------------------------------------------------------------------------------------------
# Life and death


def endless(number: int) -> bytes:
    params = {"max_new_tokens": 30_000, "ignore_eos": True, "temperature": 0.0}
    return orjson.dumps({"input_ids": [number, 2, 3], "stream": True, "sampling_params": params})


async def streams_through(url: str, num_streams: int, act: Any) -> list[bytes]:
    """Begin streams that do not end, `act` once all of them have begun, and return the last but one event of each."""

    async def stream(client: GenerateClient, number: int) -> bytes:
        events = [b"", b""]
        async with client.session.post(client.url + "/generate", data=endless(number)) as response:
            async for line in response.content:
                if not line.startswith(b"data: "):
                    continue
                events = [events[1], line[6:].strip()]
                if not begun[number].is_set():
                    begun[number].set()
        assert events[1] == b"[DONE]"
        return events[0]

    begun = [asyncio.Event() for _ in range(num_streams)]
    async with GenerateClient(url) as client:
        tasks = [asyncio.create_task(stream(client, number)) for number in range(num_streams)]
        for event in begun:
            await event.wait()
        act()
        async with asyncio.timeout(NOTICE_S):
            return list(await asyncio.gather(*tasks))


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_rank_ends_every_request_and_the_server(tiny: list[str], tmp_path: Path, sign: signal.Signals) -> None:
    with started(tiny, tmp_path / "log") as (server, (rank,)):
        last = asyncio.run(streams_through(server.url, 4, lambda: rank.send_signal(sign)))
        for event in last:
            assert orjson.loads(event)["error"]["code"] == "engine_restarting"
        assert server.process.wait(NOTICE_S) == 6, server.log
        assert gone_or_killed([rank]) == []
        reason = "was ended by SIGKILL" if sign == signal.SIGKILL else "has said nothing for 6 s"
        assert server.log.splitlines()[-1] == f"error: rank 1 {reason}"


def test_ranks_do_not_outlive_a_killed_server(tiny: list[str], tmp_path: Path) -> None:
    with started(tiny, tmp_path / "log") as (server, ranks):
        server.process.kill()
        server.process.wait()
        assert gone_or_killed(ranks) == []


def test_signals_to_the_whole_group_drain_before_the_ranks_end(tiny: list[str], tmp_path: Path) -> None:
    """As from Ctrl-C in a terminal or from a service's manager: the ranks get the signal too."""
    params = {"max_new_tokens": 200, "ignore_eos": True}

    async def run(server: ServerProcess, rank: psutil.Process) -> Any:
        async with GenerateClient(server.url) as client:
            body = orjson.dumps({"input_ids": [1, 2, 3], "stream": True, "sampling_params": params})
            async with client.session.post(server.url + "/generate", data=body) as response:
                await response.content.readline()
                rank.send_signal(signal.SIGINT)
                rank.send_signal(signal.SIGTERM)
                server.process.send_signal(signal.SIGINT)
                lines = (await response.read()).split(b"\n\n")
        return orjson.loads(lines[-3].removeprefix(b"data: "))

    with started(tiny, tmp_path / "log") as (server, (rank,)):
        last = asyncio.run(run(server, rank))
        assert last["meta_info"]["finish_reason"] == {"type": "length", "length": 200}
        assert server.process.wait(30) == 0, server.log
        assert gone_or_killed([rank]) == []


def fails_to_start(server: ServerProcess) -> tuple[int, str]:
    """Exit code and last line of a server that must not start."""
    try:
        code = server.process.wait(60)
    finally:
        server.stop()
    assert READY not in server.log
    assert "Traceback" not in server.log
    return code, server.log.splitlines()[-1]


def test_a_rank_that_ends_while_it_starts_ends_all(tiny: list[str], tmp_path: Path) -> None:
    server = ServerProcess(tiny, tmp_path / "log")
    ranks: list[psutil.Process] = []
    while not ranks and server.process.poll() is None:
        ranks = psutil.Process(server.process.pid).children()
    ranks[0].kill()
    assert fails_to_start(server) == (6, "error: rank 1 was ended by SIGKILL")


def test_an_address_that_is_taken(tiny: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, line = fails_to_start(ServerProcess([*tiny, "--dist-init-addr", address], tmp_path / "log"))
    assert code == 4
    assert f"can not listen for ranks on {address}" in line


def test_a_model_that_no_rank_can_load(tiny: list[str], tmp_path: Path) -> None:
    override = json.dumps({"num_attention_heads": 3})
    code, line = fails_to_start(ServerProcess([*tiny, "--json-model-override-args", override], tmp_path / "log"))
    assert code == 3
    assert "3 attention heads can not share 2 key-value heads" in line


def test_an_engine_in_this_process(tiny_options: dict[str, Any]) -> None:
    params = {"max_new_tokens": 8, "ignore_eos": True, "temperature": 0}
    with Engine(**tiny_options, tp_size=2) as engine:
        (rank,) = rank_processes()
        assert len(engine.generate(input_ids=[1, 2, 3], sampling_params=params)["output_ids"]) == 8
    assert gone_or_killed([rank]) == []


def test_an_engine_that_loses_a_rank(tiny_options: dict[str, Any]) -> None:
    params = {"max_new_tokens": 30_000, "ignore_eos": True}
    with Engine(**tiny_options, tp_size=2) as engine:
        (rank,) = rank_processes()
        events = engine.generate(input_ids=[1, 2, 3], sampling_params=params, stream=True)
        next(events)
        rank.kill()
        with pytest.raises(Unavailable):
            list(events)
    assert gone_or_killed([rank]) == []


def rank_processes() -> list[psutil.Process]:
    """Those of this process."""
    return [process for process in psutil.Process().children() if "runtime.rank" in process.cmdline()]


# ---------------------------------------------------------------------------------------------------------------------
# Ranks that others start


def test_two_machines(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("known to both machines")
    nodes = ["--nnodes", "2", "--dist-init-addr", f"127.0.0.1:{free_port()}", "--rank-secret-file", str(tmp_path / "secret")]
    second = ServerProcess([*tiny, *nodes, "--node-rank", "1"], tmp_path / "second")
    try:
        with started([*tiny, *nodes], tmp_path / "first") as (first, ranks):
            assert ranks == []
            assert len(asyncio.run(some_tokens(first.url))) == 8
            second.process.send_signal(signal.SIGTERM)  # it has no requests of its own, so it asks rank 0 to end
            assert first.process.wait(30) == 0, first.log
            assert second.process.wait(30) == 0, second.log
    finally:
        second.stop()


def test_machines_with_different_flags_do_not_start(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("known to both machines")
    nodes = ["--nnodes", "2", "--dist-init-addr", f"127.0.0.1:{free_port()}", "--rank-secret-file", str(tmp_path / "secret")]
    second = ServerProcess([*tiny, *nodes, "--node-rank", "1", "--page-size", "32"], tmp_path / "second")
    try:
        code, line = fails_to_start(ServerProcess([*tiny, *nodes], tmp_path / "first"))
        assert code == 2
        assert "do not agree" in line
        assert second.process.wait(30) == 2
    finally:
        second.stop()


def test_torchrun(tiny: list[str], tmp_path: Path) -> None:
    log_path = tmp_path / "log"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    with log_path.open("wb") as log:
        process = subprocess.Popen([*launch, "runtime.serve", "--port", "0", *tiny], stdout=log, stderr=log)
    server = ServerProcess.__new__(ServerProcess)
    server.process, server.log_path = process, log_path
    try:
        server.wait_until_ready()
        ranks = psutil.Process(process.pid).children(recursive=True)
        assert len(asyncio.run(some_tokens(server.url))) == 8
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert gone_or_killed(ranks) == []
        assert "stopped; 0 requests were cut" in server.log
    finally:
        process.kill()
        process.wait()


async def some_tokens(url: str) -> list[int]:
    async with GenerateClient(url) as client:
        reply = await client.generate([1, 2, 3], 8, ignore_eos=True)
        ids: list[int] = reply["output_ids"]
        return ids


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
