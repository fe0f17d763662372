"""`Runtime`: a server in a process of its own, started by the program that uses it and stopped with it."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from types import SimpleNamespace, TracebackType
from typing import IO, Any, Self

from frontend.backends.runtime_endpoint import RuntimeEndpoint
from frontend.connection import Connection
from frontend.errors import ProgramError, ServerStartFailed
from frontend.loop import shared_loop

LAST_PORT = 39999
POLL_S = 0.05
PROBE_TIMEOUT_S = 5.0
STOP_DEADLINE_S = 30.0
MAX_LOG_CHARS = 8000


class Runtime:
    """`Runtime(model_path=...)`: keyword arguments are the server's flags. A backend for programs, and a client besides.

    `url`, `pid`, `endpoint` (its `RuntimeEndpoint`) and `server_args` (what it was started with) may be read.
    """

    def __init__(self, log_level: str = "error", *, launch_timeout: float = 300.0, **server_args: Any) -> None:
        """Returns when the server is ready. Raises `ServerStartFailed` with its log if it is not, or ends."""
        server_args = {"host": "127.0.0.1", **server_args, "port": free_port(server_args.get("port", 30000))}
        self.server_args = SimpleNamespace(log_level=log_level, **server_args)
        self.url = f"http://{server_args['host']}:{server_args['port']}"
        self.generate_url = self.url + "/generate"
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by shutdown
        command = [sys.executable, "-m", "runtime.serve", *flags({"log_level": log_level, **server_args})]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self.pid: int | None = self._process.pid
        atexit.register(self.shutdown)
        with ExitStack() as undo:
            undo.callback(self.shutdown)
            self._wait_until_ready(launch_timeout)
            self.endpoint = RuntimeEndpoint(self.url, server_args.get("api_key"))
            undo.pop_all()
        self._connection = Connection(self.url, server_args.get("api_key"))

    def shutdown(self) -> None:
        """Stop the server; open requests get the time that it gives them. Twice is once."""
        if self.pid is None:
            return
        self.pid = None
        atexit.unregister(self.shutdown)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def log(self) -> str:
        """The end of what the server has written so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), MAX_LOG_CHARS, max(size - MAX_LOG_CHARS, 0)).decode("utf-8", "replace")

    # -- a client ------------------------------------------------------------------------------------------------------

    def cache_prefix(self, prefix: str) -> None:
        self.endpoint.cache_prefix(prefix)

    def generate(
        self,
        prompt: str | list[str],
        sampling_params: Mapping[str, Any] | None = None,
        return_logprob: bool | list[bool] | None = False,
        logprob_start_len: int | list[int] | None = None,
        top_logprobs_num: int | list[int] | None = None,
        lora_path: list[str | None] | None = None,
    ) -> str:
        """What `/generate` answers, as JSON text. Raises `BackendError`."""
        body = {
            "text": prompt,
            "sampling_params": sampling_params,
            "return_logprob": return_logprob,
            "logprob_start_len": logprob_start_len,
            "top_logprobs_num": top_logprobs_num,
            "lora_path": lora_path,
        }
        return json.dumps(shared_loop().run(self._connection.post("/generate", body)))

    def encode(self, prompt: str | list[str]) -> str:
        """What `/encode` answers, as JSON text."""
        return json.dumps(shared_loop().run(self._connection.post("/encode", {"text": prompt})))

    async def async_generate(self, prompt: str, sampling_params: Mapping[str, Any] | None = None) -> AsyncIterator[str]:
        """The text in pieces, as they come; for any event loop."""
        num_chars = 0
        body = {"text": prompt, "sampling_params": sampling_params, "stream": True}
        async with aclosing(shared_loop().relayed(self._connection.events("/generate", body))) as events:
            async for event in events:
                piece = event["text"][num_chars:]
                num_chars += len(piece)
                if piece:
                    yield piece

    add_request = async_generate

    async def get_server_info(self) -> Any:
        return await asyncio.wrap_future(shared_loop().submit(self.endpoint.server_info()))

    def get_tokenizer(self) -> Any:
        """Of the model, by the transformers package, which must be installed."""
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ProgramError("get_tokenizer needs transformers: pip install transformers") from error
        return AutoTokenizer.from_pretrained(self.endpoint.model_info["tokenizer_path"])

    # -- starting --------------------------------------------------------------------------------------------------------

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            if self._process.poll() is not None:
                raise ServerStartFailed(f"the server ended with exit code {self._process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise ServerStartFailed(f"the server was not ready after {timeout_s:g} s:\n{self.log()}")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=PROBE_TIMEOUT_S) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on. Raises `ServerStartFailed` if there is none."""
    for port in range(first, LAST_PORT + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerStartFailed(f"no port from {first} to {LAST_PORT} is free")


def flags(server_args: Mapping[str, Any]) -> Iterator[str]:
    """As on the command line: `max_total_tokens=64` is `--max-total-tokens 64`, True a bare flag; False and None nothing."""
    for name, value in server_args.items():
        if value is None or value is False:
            continue
        yield "--" + name.replace("_", "-")
        if value is not True:
            yield from map(str, value) if isinstance(value, Sequence) and not isinstance(value, str) else [str(value)]
