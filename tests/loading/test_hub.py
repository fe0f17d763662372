"""What a model path means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from runtime.errors import LoadError
from runtime.loading.hub import resolve


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Records what would be downloaded."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(hub_id: str, **options: Any) -> str:
        seen.append((hub_id, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return seen


def test_folder_and_file(tmp_path: Path, downloads: list[object]) -> None:
    file = tmp_path / "model.GGUF"
    file.write_bytes(b"")
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve(str(file)) == file
    assert not downloads


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert resolve("~/models") == tmp_path / "models"


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LoadError, match=r"not a \.gguf file"):
        resolve(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    "path", ["/no/such/model", "./model", "../model", "a/b/c", "model.gguf", "org/model.gguf", "", "~/x", "~nobody/x"]
)
def test_a_missing_path_is_not_asked_from_the_hub(path: str, downloads: list[object]) -> None:
    with pytest.raises(LoadError, match="no such file or folder"):
        resolve(path)
    assert not downloads


def test_hub_id(tmp_path: Path, downloads: list[tuple[str, dict[str, Any]]]) -> None:
    assert resolve("org/model-1.5B", revision="v2", download_dir="here") == tmp_path
    [(hub_id, options)] = downloads
    assert hub_id == "org/model-1.5B"
    assert options["revision"] == "v2"
    assert options["cache_dir"] == "here"
    assert set(options["allow_patterns"]) == {"*.json", "*.jinja", "tokenizer.model", "*.safetensors"}


def test_hub_id_without_weights(downloads: list[tuple[str, dict[str, Any]]]) -> None:
    resolve("gpt2", with_weights=False)
    assert "*.safetensors" not in downloads[0][1]["allow_patterns"]


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LoadError, match="can not be reached"):
        resolve("org/model", download_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LocalEntryNotFoundError("nothing cached"), "can not be reached"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("first line\nsecond line"), "first line$"),
    ],
    ids=str,
)
def test_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    def snapshot_download(hub_id: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(LoadError, match=reason) as caught:
        resolve("org/model")
    assert "\n" not in str(caught.value)
