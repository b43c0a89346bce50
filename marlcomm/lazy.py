"""Names of a package that are imported when they are first used, so that a bare import stays quick."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``: each name lives in the module that `homes` gives.

    Three packages are also linked from the root of the repository, where people extend them. Imported from there they
    would be a second copy of every class: that raises `ImportError`.
    """
    if not package.startswith("marlcomm"):
        raise ImportError(
            f"import it as marlcomm.{package} (and its modules as marlcomm.{package}.NAME), not as {package}"
        )

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get, lambda: sorted(homes)
