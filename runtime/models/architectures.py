"""Finds the family that serves a config, by the `architectures` that the config names."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from runtime import extensions
from runtime.errors import LoadError
from runtime.models.config_reader import ConfigReader
from runtime.models.llama_like import DEFAULTS
from runtime.models.spec import DecoderSpec

FAMILIES = "runtime.models.families"


def spec_for(config: Mapping[str, Any]) -> DecoderSpec:
    """The decoder that `config` (a Hugging Face config.json) describes.

    Raises `LoadError` when no family serves it or a value in it can not be. Code that comes with a model (`auto_map`) is never
    run: a config that needs it names an architecture that no family here has.
    """
    names = ConfigReader(config).texts("architectures") or ()
    families = {name: family for family in _families() for name in family.ARCHITECTURES}
    for name in names:
        if name in families:
            family = families[name]
            spec: DecoderSpec = family.spec(ConfigReader(config, DEFAULTS | family.DEFAULTS))
            return spec
    remote = " (and code that comes with a model is not run)" if "auto_map" in config else ""
    raise LoadError(f"the architecture {', '.join(names) or 'of the model'} is not supported{remote}: {_listing(families)} are")


def _families() -> list[ModuleType]:
    return [extensions.load(FAMILIES, name) for name in extensions.names(FAMILIES)]


def _listing(names: Mapping[str, ModuleType]) -> str:
    return ", ".join(sorted(names))
