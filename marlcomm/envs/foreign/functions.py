"""Functions that settings name: those that make an environment, and scripts to compare with."""

from __future__ import annotations

import importlib
import os
import pkgutil
from typing import Any

from marlcomm.registry import ConfigError, nearest


def function(key: str, name: str) -> Any:
    """What ``package.module:function`` names; raises `ConfigError` where ``env.KEY`` names no function."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on standard output
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a third party's module may raise anything
        raise ConfigError(f"env.{key}: cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = [word for word in vars(found) if callable(getattr(found, word)) and not word.startswith("_")]
            within = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", None) or [])]
            hint = f"modules in it: {', '.join(within)}" if within and not known else nearest(path, known)
            raise ConfigError(f"env.{key}: {module_name} has no {path!r}; {hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"env.{key}: {name} is {type(found).__name__}, wanted a function")
    return found
