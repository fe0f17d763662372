"""SGLang's own frontend, unchanged, against the served embedded model: every documented program runs to its end."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.server_process import running
from tests.frontend.programs import CHARACTER_REGEX, DATE_REGEX, IP_REGEX
from tests.frontend.test_wire import needs_sglang, sglang_side


@needs_sglang
def test_the_documented_programs_run(embedded_gguf: Path, tmp_path: Path) -> None:
    with running(["--max-total-tokens", "8192"], tmp_path / "log") as server:
        texts = sglang_side(tmp_path, server.url)
    picture = texts.pop("image_qa")
    assert "image" in picture, "pictures are refused by name"
    assert [name for name, text in texts.items() if not text or text.startswith("error: ")] == []
    for name, pattern in (("regex_ip", IP_REGEX), ("regex_dates", DATE_REGEX), ("character", CHARACTER_REGEX)):
        assert re.search(pattern, texts[name]), texts[name]
