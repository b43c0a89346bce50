"""What all commands share: where they print, and how they tell what to run next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
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

ConfigFile = Annotated[  # text: a path would make one slash of two, and the first KEY=VALUE may hold an address
    str | None, typer.Argument(metavar="[CONFIG]", help="YAML file, as in configs/", show_default=False)
]
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

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="folder of a run, or the folder above its runs: the newest of them")
]


def file_to_write(option: typer.CallbackParam, target: Path | None) -> Path | None:
    """Callback of an option: a file that can be written, told before hours are spent on what will be in it."""
    if target is not None and target.is_dir():
        raise ConfigError(f"{option.opts[0]}: {str(target)!r} is a folder, wanted a file")
    if target is None or not target.exists():
        folder_to_write(option, None if target is None else target.parent)
    elif not os.access(target, os.W_OK):
        raise ConfigError(f"{option.opts[0]}: {str(target)!r} cannot be written to")
    return target


def folder_to_write(option: typer.CallbackParam, target: Path | None) -> Path | None:
    """Callback of an option: a folder that is there, or can be made."""
    if target is not None:
        there = next(place for place in (target, *target.absolute().parents) if place.exists())
        if not there.is_dir():
            raise ConfigError(f"{option.opts[0]}: {str(there)!r} is a file, wanted a folder")
        if not os.access(there, os.W_OK):
            raise ConfigError(f"{option.opts[0]}: {str(there)!r} cannot be written to")
    return target


def program(name: str) -> str:
    """How this shell calls a program of this Python's environment: by name, or by path where that is not on PATH."""
    ours = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and (not ours.exists() or Path(found).samefile(ours)):
        return name
    return os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours)


def resume_command(run: Run) -> str:
    """What continues a run."""
    return f"{program('marlcomm')} train --resume {shlex.quote(str(run.folder))}"


def command_line() -> str:
    """The command as it was given, for the record."""
    return " ".join(["marlcomm", *sys.argv[1:]])


def say(text: str) -> None:
    """Print lines as they are, markup aside: nothing is coloured by guess or broken where the terminal ends."""
    out.print(text, highlight=False, soft_wrap=True)


def say_aside(text: str) -> None:
    """Print to stderr, likewise."""
    err.print(text, highlight=False, soft_wrap=True)


def complain(reason: str) -> None:
    """Say what is wrong."""
    say_aside(f"[bold red]error:[/bold red] {escape(reason)}")


def say_command(what: str, command: str) -> None:
    """Say what to run next, and for what."""
    say(f"\n{what}\n  [bold]{escape(command)}[/bold]")


def tell_where(target: Path) -> None:
    """Say which file or folder was written."""
    say(f"written to {escape(str(target))}")


def print_remarks(remarks: list[str]) -> None:
    """Print sentences, a line each."""
    for remark in remarks:
        say(escape(remark))


def print_notes(notes: Iterable[str]) -> None:
    """Print what a user may not expect, to stderr."""
    for note in notes:
        say_aside(f"[yellow]note:[/yellow] {escape(note)}")


def file_and_changes(config_file: str | None, overrides: list[str] | None) -> tuple[Path | None, list[str]]:
    """The config file and the settings KEY=VALUE of a command line, whose first word may be either."""
    if config_file is None:
        return None, overrides or []
    if "=" in config_file and not Path(config_file).exists():
        return None, [config_file, *(overrides or [])]
    return Path(config_file), overrides or []


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
