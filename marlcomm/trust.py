"""Code of third parties that a run's config names, and who may load it.

``imports`` and functions such as ``env.maker`` are programs. A run that this user made may load them again: its folder
holds a signature of what it names, by a key that never leaves this user's own files. Elsewhere the user must say so.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_KEY_BYTES = 32


def named(data: Mapping[str, Any]) -> list[str]:
    """What a config's data names of others' code: modules, and functions as ``package.module:function``."""
    imports = data.get("imports") or []
    modules = [str(module) for module in (imports if isinstance(imports, (list, tuple)) else [imports])]
    return [*modules, *_functions({key: data[key] for key in data if key not in ("imports", "init_from")})]


def _functions(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for inner in node:
            yield from _functions(inner)
    elif isinstance(node, str) and _FUNCTION.fullmatch(node):
        yield node


def signature(data: Mapping[str, Any]) -> str | None:
    """The user's signature of the code that a config's data names, and of all that it is called with.

    None where it names none, or where this user's files cannot be written.
    """
    if not named(data):
        return None
    return seal({name: group for name, group in data.items() if name == "imports" or list(_functions(group))})


def seal(data: Any) -> str | None:
    """The user's signature of plain data; None where this user's files cannot be written."""
    key = _key()
    text = json.dumps(data, sort_keys=True)
    return None if key is None else hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def signed(data: Mapping[str, Any], found: object) -> bool:
    """Whether a signature is this user's of what the data names."""
    return same(signature(data), found)


def same(wanted: str | None, found: object) -> bool:
    """Whether a signature that was found is the one that is wanted; never where there is none."""
    return wanted is not None and isinstance(found, str) and hmac.compare_digest(wanted, found)


def _key() -> bytes | None:
    """The user's key, which is made when it is first needed; None where it cannot be."""
    state = os.environ.get("XDG_STATE_HOME")
    try:
        file = (Path(state) if state else Path.home() / ".local" / "state") / "marlcomm" / "key"
        if not file.exists():
            _make(file)
        key = file.read_bytes()
    except (OSError, RuntimeError):  # no home, or one that cannot be written
        return None
    return key if len(key) == _KEY_BYTES else None


def _make(file: Path) -> None:
    """Write a new key, whole or not at all; where another process was quicker, its key stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as fresh:
        fresh.write(secrets.token_bytes(_KEY_BYTES))
    try:
        os.link(partial, file)
    except FileExistsError:
        pass
    finally:
        partial.unlink()
