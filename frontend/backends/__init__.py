"""The backends: a file each, with a class whose name is the file's, written without underscores and in any case."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def names() -> tuple[str, ...]:
    """Of the files, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(class_name: str) -> Any:
    """The class of that name, from the file that is called like it, or None if there is none."""
    wanted = class_name.lower()
    file = next((name for name in names() if name.replace("_", "") == wanted), None)
    return None if file is None else vars(importlib.import_module(f"frontend.backends.{file}")).get(class_name)
