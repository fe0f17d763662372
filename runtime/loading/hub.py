"""What `--model-path` names: a folder, a .gguf file, or a model on the Hugging Face hub, which is downloaded once.

Receives the path or id as the user wrote it and returns a path on this machine. Only weights in safetensors files and plain
data are fetched, never code and never pickles. `HF_HUB_OFFLINE=1` keeps it offline, as everywhere in huggingface_hub.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from runtime.errors import LoadError

DATA_FILES = ("*.json", "*.jinja", "tokenizer.model")
WEIGHT_FILES = ("*.safetensors",)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve(
    model_path: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    with_weights: bool = True,
    flag: str = "--model-path",
) -> Path:
    """The folder or .gguf file that `model_path`, the value of `flag`, means. Raises `LoadError` when there is none."""
    path = Path(os.path.expanduser(model_path))
    if path.is_dir() and model_path:
        return path
    if path.is_file():
        return _model_file(path, flag)
    if _looks_like_path(model_path):
        raise LoadError(f"{flag} {model_path}: there is no such file or folder")
    return _download(model_path, revision, download_dir, DATA_FILES + WEIGHT_FILES * with_weights)


def _model_file(path: Path, flag: str) -> Path:
    if path.suffix.lower() != ".gguf":
        raise LoadError(f"{flag} {path} is a file but not a .gguf file: give the folder that holds it")
    return path


def _looks_like_path(model_path: str) -> bool:
    """A hub id is one or two plain words; what begins like a path or ends like a file is a path that does not exist."""
    return _HUB_ID.fullmatch(model_path) is None or model_path.lower().endswith((".gguf", ".safetensors", ".json"))


def _download(hub_id: str, revision: str | None, download_dir: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's, or httpx2's in newer ones
        GatedRepoError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(hub_id, revision=revision, cache_dir=download_dir, allow_patterns=list(patterns))
    except GatedRepoError as error:
        raise LoadError(f"the hub model {hub_id!r} needs permission: accept its terms and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise LoadError(f"the hub model {hub_id!r} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise LoadError(f"{hub_id!r} is neither a folder here nor a model on the hub (private ones need HF_TOKEN)") from error
    except LocalEntryNotFoundError as error:
        raise LoadError(f"{hub_id!r} is not a folder here and the hub can not be reached: give a folder") from error
    except (HTTPError, OSError, ValueError) as error:
        raise LoadError(f"the hub model {hub_id!r} can not be downloaded: {_first_line(error)}") from error
    return Path(str(folder))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
