"""What all commands share: where they print, and how they tell what to run next."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from marlcomm import config
from marlcomm.registry import ConfigError

if TYPE_CHECKING:
    from marlcomm.runs import Run

out = Console()
err = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="dotted settings, as in channel.name=vq", show_default=False),
]
Imports = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="module to import first: it registers things of yours"),
]

Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="load the code that the run's config names (imports, env.maker), though others made the run",
    ),
]


def program(name: str) -> str:
    """How this shell calls a program of this Python's environment: by name, or by path where that is not on PATH."""
    ours = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and (not ours.exists() or Path(found).samefile(ours)):
        return name
    return os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours)


def resume_command(run: Run) -> str:
    """What continues a run."""
    return f"{program('marlcomm')} train --resume {run.folder}"


def command_line() -> str:
    """The command as it was given, for the record."""
    return " ".join(["marlcomm", *sys.argv[1:]])


def tell_where(target: Path) -> None:
    """Say which file or folder was written."""
    out.print(f"written to {escape(str(target))}", highlight=False, soft_wrap=True)


def print_remarks(remarks: list[str]) -> None:
    """Print sentences, a line each."""
    for remark in remarks:
        out.print(escape(remark), highlight=False, soft_wrap=True)


def progress_bar() -> Progress:
    """A bar with a percentage, times, and a field ``figures``."""
    return Progress(
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=out,
    )


def checked_settings(kind: str, name: str, overrides: list[str] | None, imports: list[str] | None) -> dict[str, Any]:
    """The settings of the thing to check, whose name is given already."""
    config.import_plugins(imports or [])
    settings, _ = config.merge({}, [override.removeprefix(f"{kind}.") for override in overrides or []])
    if "name" in settings:
        raise ConfigError(f"name: got {settings['name']!r}, but the {kind} to check is {name!r} already")
    return settings
