"""marlcomm train."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from marlcomm import config
from marlcomm.changes import told
from marlcomm.cli.evaluating import evaluate_and_tell
from marlcomm.cli.restarts import train_with_restarts
from marlcomm.cli.shell import (
    ConfigFile,
    Imports,
    Overrides,
    Trust,
    err,
    file_and_changes,
    out,
    print_notes,
    print_remarks,
    program,
    progress_bar,
    resume_command,
    say,
    say_command,
)
from marlcomm.cli.telling import failures_told, tell_dry_run, what
from marlcomm.registry import ConfigError

if TYPE_CHECKING:
    from marlcomm.config import Experiment
    from marlcomm.runs import Run

_ROUNDS_PER_LINE = 10  # in a log file, where there is no bar


def train(
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    imports: Imports = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="continue a run from its last checkpoint; KEY=VALUE may prolong it, or change where it runs",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="let KEY=VALUE change what a resumed run learns; its summaries will say so")
    ] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="start from the weights of a trained team; without CONFIG with its settings too",
            show_default=False,
        ),
    ] = None,
    trust: Trust = False,
    root: Annotated[Path, typer.Option("--runs", help="folder that runs are made in")] = Path("runs"),
    evaluate_after: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="evaluate the end of the run")
    ] = True,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="build everything, train two rounds, and tell what the run will take; keep nothing"
        ),
    ] = False,
    restarts: Annotated[
        int,
        typer.Option(min=0, help="go on so many times from the last checkpoint where the training dies or fails"),
    ] = 0,
) -> None:
    """Train a team, then evaluate its last checkpoint.

    Ctrl-C finishes the update, saves and tells how to resume; a second Ctrl-C stops at once.
    """
    from marlcomm.runs import Run

    file, changes = file_and_changes(config_file, overrides)
    if resume is not None:
        if file is not None or imports or init_from is not None:
            raise ConfigError("--resume takes a run and KEY=VALUE: all else is as it began")
        if dry:
            raise ConfigError("--dry-run tries a run that has not begun: leave out --resume")
        run, settings = _resumed(resume, changes, force, trust)
    else:
        if force:
            raise ConfigError("--force lets KEY=VALUE change a run that goes on: it needs --resume RUN")
        settings = _settings(file, changes, imports or [], init_from, trust)
        if dry:
            tell_dry_run(settings)
            return
        run = Run.create(settings, root, sys.argv[1:])
    if restarts:
        said = {"--no-evaluate": not evaluate_after, "--trust": trust, "--force": force}
        options = [*(changes if resume is not None else []), *(name for name, given in said.items() if given)]
        raise typer.Exit(train_with_restarts(run, options, restarts))
    _train(run, settings)
    if evaluate_after:
        try:
            evaluate_and_tell(run, settings, None, None)
        except KeyboardInterrupt:
            say_command("trained and saved; evaluate with", f"{program('marlcomm')} evaluate {run.folder}")
            raise typer.Exit(130) from None
    say(f"\ncurves: [bold]{escape(program('tensorboard'))} --logdir {escape(str(run.folder))}[/bold]")


def _resumed(folder: Path, changes: list[str], force: bool, trust: bool) -> tuple[Run, Experiment]:
    """A run that goes on, and what with."""
    from marlcomm.runs import Run

    run = Run.open(folder, trust)
    settings = run.resumed(changes, force)
    print_notes(told({key: values}) for key, values in (run.changes(settings) | run.moved(settings)).items())
    return run, settings


def _settings(
    file: Path | None, overrides: list[str], imports: list[str], init_from: Path | None, trust: bool
) -> Experiment:
    """The settings of a new run, checked."""
    from marlcomm.rllib.cluster import check_cpus
    from marlcomm.runs import Run
    from marlcomm.sweeps.settings import is_swept

    if file is None and init_from is None and not overrides:
        raise ConfigError(
            "train: wanted a config file or settings, as in marlcomm train configs/demo.yaml or "
            "marlcomm train env.name=particle_spread, or --resume RUN"
        )
    several = [change for change in overrides if is_swept(change.partition("=")[2])]
    if several:
        raise ConfigError(f"train: got {several[0]}, several values: marlcomm sweep trains a run with each of them")
    if init_from is not None:
        parent = Run.open(init_from, trust)
        file = parent.config_file() if file is None else file
        overrides = [*overrides, f"init_from={parent.last_checkpoint()}"]
    data, notes = config.merge({}, overrides) if file is None else config.read(file, overrides)
    if imports:
        listed = data.get("imports") or []
        data["imports"] = [*listed, *imports] if isinstance(listed, list) else listed
    settings = config.experiment(data)
    check_cpus(settings)
    print_notes(notes)
    return settings


def _train(run: Run, settings: Experiment) -> None:
    """Train to the end; exits, and tells how to go on, where it was interrupted."""
    begins = not run.checkpoints()
    try:
        exit_code = _trained(run, settings, resuming=not begins)
    except (ConfigError, KeyboardInterrupt):  # after Ctrl-C: it came before anything could be saved
        if begins and not run.checkpoints():
            run.discard()
        raise
    if exit_code is not None:
        say_command("stopped and saved; continue with", resume_command(run))
        raise typer.Exit(exit_code)


def _trained(run: Run, settings: Experiment, resuming: bool) -> int | None:
    """Train to the end; returns the exit code if it was interrupted."""
    from marlcomm.rllib.cluster import running_ray
    from marlcomm.training import Interruption, built, rounds

    say(f"{what(settings)}, in {escape(str(run.folder))}")

    def announce() -> None:
        err.print("\nfinishing the update, then saving; once more stops at once")

    with Interruption(announce) as interruption, ExitStack() as stack:
        with out.status("starting Ray"):
            stack.enter_context(running_ray(settings))
        interruption.install()
        with out.status("building the team"):
            algorithm = stack.enter_context(built(run, settings, resuming))
        print_remarks(algorithm.remarks)
        with progress_bar() as progress, failures_told(run):
            bar = progress.add_task("training", total=1.0, figures="")
            progress.update(bar, completed=settings.run.done(algorithm.env_steps, algorithm.seconds))
            for figures in rounds(algorithm, run, settings, interruption):
                done = settings.run.done(algorithm.env_steps, algorithm.seconds)
                progress.update(bar, completed=done, figures=_headline(figures))
                if not out.is_terminal and algorithm.round % _ROUNDS_PER_LINE == 0:
                    say(f"{algorithm.env_steps:,} env steps  {_headline(figures)}")
    return interruption.exit_code if interruption.requested else None


def _headline(figures: dict[str, float]) -> str:
    bits = figures.get("bandwidth/prefix_bits_per_message", 0.0)
    return (
        f"success {figures['train/success']:.2f}  return {figures['train/return']:.2f}  "
        f"{bits:.1f} bits/message  {figures['time/env_steps_per_second']:,.0f} env steps/s"
    )
