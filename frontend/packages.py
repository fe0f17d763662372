"""Optional packages: what a backend is built on is imported when the backend is made."""

from __future__ import annotations

import importlib
from typing import Any

from frontend.errors import MissingPackage


def package(name: str, *, extra: str) -> Any:
    """The module `name`. Raises `MissingPackage`, which names the extra of this project that brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(f"this needs the package {name}: pip install 'callboard[{extra}]' ({error})") from error
