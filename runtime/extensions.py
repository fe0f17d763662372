"""The one loader of extension points: a folder of modules whose file names are their public names.

Adding a file to such a folder adds the extension; nothing else has to be edited.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from runtime.errors import ConfigError


def names(package: str) -> tuple[str, ...]:
    """Public names in `package` (a dotted path), sorted; files that start with an underscore are private.

    A file `dfs_weight.py` is offered as `dfs-weight`, as command lines spell it.
    """
    folder = importlib.import_module(package).__path__
    found = (info.name for info in pkgutil.iter_modules(folder))
    return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))


def load(package: str, name: str) -> ModuleType:
    """The module called `name` in `package`. Raises `ConfigError` that lists what the folder has."""
    known = names(package)
    if name not in known:
        kind = package.rsplit(".", 1)[-1].replace("_", " ")
        raise ConfigError(f"no {name!r} among the {kind}: choose one of {', '.join(known)}")
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")
