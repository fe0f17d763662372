"""A batch outlives its server: killed twice in the middle, started again, and no line is lost or written twice."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import openai

from tests.e2e.server_process import ServerProcess

NUM_LINES = 500
KILL_AFTER = (60, 250)
"""How many lines have run when the server is killed."""


def line(index: int) -> dict[str, Any]:
    body = {"model": "default", "prompt": f"{index} and", "max_tokens": 1 + index % 3, "temperature": 0}
    return {"custom_id": f"line-{index}", "method": "POST", "url": "/v1/completions", "body": body}


def started(folder: Path, number: int) -> ServerProcess:
    arguments = ["--max-total-tokens", "8192", "--file-storage-path", str(folder / "storage")]
    server = ServerProcess([*arguments, "--random-seed", "7"], folder / f"log-{number}")
    server.wait_until_ready()
    return server


def client_of(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def wait_for(client: openai.OpenAI, batch_id: str, num_lines: int) -> Any:
    """The batch when it has ended or `num_lines` have run, as a client polls."""
    for _ in range(2000):
        batch = client.batches.retrieve(batch_id)
        counts = batch.request_counts
        if batch.status == "completed" or (counts is not None and counts.completed + counts.failed >= num_lines):
            return batch
        time.sleep(0.02)
    raise AssertionError(f"the batch does not go on: {batch}")


def test_a_batch_survives_being_killed(embedded_gguf: Path, tmp_path: Path) -> None:
    content = "".join(json.dumps(line(index)) + "\n" for index in range(NUM_LINES)).encode()
    server = started(tmp_path, 0)
    batch_id = ""
    try:
        for number, num_lines in enumerate(KILL_AFTER, 1):
            with client_of(server) as client:
                if not batch_id:
                    file = client.files.create(file=("in.jsonl", content), purpose="batch")
                    batch_id = client.batches.create(
                        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
                    ).id
                batch = wait_for(client, batch_id, num_lines)
                assert batch.status == "in_progress"
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
            server = started(tmp_path, number)
        with client_of(server) as client:
            batch = wait_for(client, batch_id, NUM_LINES + 1)
            assert batch.status == "completed"
            assert batch.error_file_id is None
            assert batch.request_counts.to_dict() == {"total": NUM_LINES, "completed": NUM_LINES, "failed": 0}
            rows = [json.loads(row) for row in client.files.content(batch.output_file_id).text.splitlines()]
        assert [row["custom_id"] for row in rows] == [f"line-{index}" for index in range(NUM_LINES)]
        assert all(row["response"]["body"]["usage"]["completion_tokens"] <= 3 for row in rows)
        assert len(list((tmp_path / "storage" / "files").iterdir())) == 2
        assert server.stop() == 0
    finally:
        server.stop(signal.SIGKILL)
