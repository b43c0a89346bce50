"""marlcomm train."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from marlcomm import config
from marlcomm.changes import told
from marlcomm.cli.evaluating import evaluate_and_tell
from marlcomm.cli.restarts import train_with_restarts
from marlcomm.cli.shell import Imports, Overrides, Trust, err, out, print_remarks, program, progress_bar, resume_command
from marlcomm.registry import ConfigError

if TYPE_CHECKING:
    from marlcomm.config import Experiment
    from marlcomm.rllib.algorithm import TeamAlgorithm
    from marlcomm.runs import Run

_ROUNDS_PER_LINE = 10  # in a log file, where there is no bar


def train(
    config_file: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file, as in configs/", show_default=False)
    ] = None,
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
    from marlcomm.rllib.cluster import check_cpus
    from marlcomm.runs import Run

    if config_file is not None and "=" in config_file.name and not config_file.exists():
        config_file, overrides = None, [str(config_file), *(overrides or [])]
    if resume is not None:
        if config_file is not None or imports or init_from is not None:
            raise ConfigError("--resume takes a run and KEY=VALUE: all else is as it began")
        if dry:
            raise ConfigError("--dry-run tries a run that has not begun: leave out --resume")
        run = Run.open(resume, trust)
        settings = run.resumed(overrides or [], force)
        _print_notes([told({key: values}) for key, values in run.changes(settings).items()])
    elif force:
        raise ConfigError("--force lets KEY=VALUE change a run that goes on: it needs --resume RUN")
    elif config_file is None and init_from is None and not overrides:
        raise ConfigError(
            "train: wanted a config file or settings, as in marlcomm train configs/demo.yaml or "
            "marlcomm train env.name=particle_spread, or --resume RUN"
        )
    else:
        settings = _settings(config_file, overrides or [], imports or [], init_from, trust)
        check_cpus(settings)
        if dry:
            _dry_run(settings)
            return
        run = Run.create(settings, root, sys.argv[1:])
    if restarts:
        said = {"--no-evaluate": not evaluate_after, "--trust": trust, "--force": force}
        options = [*(overrides or [] if resume is not None else []), *(name for name, given in said.items() if given)]
        raise typer.Exit(train_with_restarts(run, options, restarts))
    try:
        exit_code = _train(run, settings, resuming=bool(run.checkpoints()))
    except ConfigError:
        if not run.checkpoints():
            run.discard()
        raise
    if exit_code is not None:
        out.print(
            f"\nstopped and saved; continue with\n  [bold]{escape(resume_command(run))}[/bold]",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(exit_code)
    if evaluate_after:
        try:
            evaluate_and_tell(run, settings, None, None)
        except KeyboardInterrupt:
            again = f"{program('marlcomm')} evaluate {run.folder}"
            out.print(f"\ntrained and saved; evaluate with\n  [bold]{escape(again)}[/bold]", soft_wrap=True)
            raise typer.Exit(130) from None
    out.print(
        f"\ncurves: [bold]{escape(program('tensorboard'))} --logdir {escape(str(run.folder))}[/bold]",
        highlight=False,
        soft_wrap=True,
    )


def _settings(
    file: Path | None, overrides: list[str], imports: list[str], init_from: Path | None, trust: bool
) -> Experiment:
    from marlcomm.runs import Run

    if init_from is not None:
        parent = Run.open(init_from, trust)
        file = parent.config_file() if file is None else file
        overrides = [*overrides, f"init_from={parent.last_checkpoint()}"]
    data, notes = config.merge({}, overrides) if file is None else config.read(file, overrides)
    if imports:
        listed = data.get("imports") or []
        data["imports"] = [*listed, *imports] if isinstance(listed, list) else listed
    settings = config.experiment(data)
    _print_notes(notes)
    return settings


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        err.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False, soft_wrap=True)


def _train(run: Run, settings: Experiment, resuming: bool) -> int | None:
    """Train to the end; returns the exit code if it was interrupted."""
    from marlcomm.rllib.cluster import running_ray
    from marlcomm.training import Interruption, built, rounds

    out.print(f"{_what(settings)}, in {escape(str(run.folder))}", highlight=False, soft_wrap=True)

    def announce() -> None:
        err.print("\nfinishing the update, then saving; once more stops at once")

    with Interruption(announce) as interruption, ExitStack() as stack:
        with out.status("starting Ray"):
            stack.enter_context(running_ray(settings))
        interruption.install()
        with out.status("building the team"):
            algorithm = stack.enter_context(built(run, settings, resuming))
        if settings.init_from is not None and not resuming:
            _tell_what_is_new(algorithm, Path(settings.init_from))
        print_remarks(algorithm.remarks)
        with progress_bar() as progress, _told_how_to_go_on(run):
            bar = progress.add_task("training", total=1.0, figures="")
            progress.update(bar, completed=settings.run.done(algorithm.env_steps, algorithm.seconds))
            for figures in rounds(algorithm, run, settings, interruption):
                done = settings.run.done(algorithm.env_steps, algorithm.seconds)
                progress.update(bar, completed=done, figures=_headline(figures))
                if not out.is_terminal and algorithm.round % _ROUNDS_PER_LINE == 0:
                    out.print(
                        f"{algorithm.env_steps:,} env steps  {_headline(figures)}", highlight=False, soft_wrap=True
                    )
    return interruption.exit_code if interruption.requested else None


def _what(settings: Experiment) -> str:
    return (
        f"[bold]{settings.name}[/bold]: {settings.policy.name} + {settings.channel.name} under "
        f"{settings.algorithm.name} on {settings.env.name}, seed {settings.seed}"
    )


def _dry_run(settings: Experiment) -> None:
    """Try a run, and tell what the whole of it will take."""
    from marlcomm.dry_run import dry_run
    from marlcomm.rllib.cluster import running_ray

    out.print(_what(settings), highlight=False, soft_wrap=True)
    with out.status("trying two rounds"), running_ray(settings), _told_how_to_go_on(None):
        tried = dry_run(settings)
    print_remarks(tried.remarks)
    run, figures = settings.run, tried.figures
    bits = {name: figures.get(f"bandwidth/{name}_bits_per_message", 0.0) for name in ("nominal", "prefix")}
    minutes, speed = tried.seconds(run) / 60, tried.env_steps / tried.round_seconds
    _print_rows("rows of a round", {name: " x ".join(map(str, shape)) for name, shape in tried.shapes.items()})
    total = {"all": sum(tried.parameters.values())}
    _print_rows("parameters", {name: f"{count:,}" for name, count in (tried.parameters | total).items()})
    _print_rows(
        "cost",
        {
            "bits of a message": f"{bits['nominal']:.1f} nominal, {bits['prefix']:.1f} by the prefix code",
            "a round": f"{tried.env_steps:,.0f} env steps in {tried.round_seconds:.2f} s ({speed:,.0f} a second)",
            "the whole run": f"{tried.rounds(run):,} rounds, about {minutes:,.1f} minutes",
            **{f"memory of {what}": f"{peak / 2**20:,.0f} MiB at most" for what, peak in tried.peak_bytes.items()},
        },
    )


def _print_rows(title: str, rows: dict[str, str]) -> None:
    table = Table(title=title, box=None, pad_edge=False, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    out.print()
    out.print(table, highlight=False)


def _tell_what_is_new(algorithm: TeamAlgorithm, folder: Path) -> None:
    """Say which weights do not come from the checkpoint."""
    from marlcomm import checkpoint
    from marlcomm.policies.team import what_fits

    policy = algorithm.env_runner.module.policy
    fresh = sorted(policy.state_dict().keys() - what_fits(policy, checkpoint.read(folder).policy()))
    _print_notes([f"weights of {folder}; new are {', '.join(fresh) or 'none'}"])


@contextmanager
def _told_how_to_go_on(run: Run | None) -> Iterator[None]:
    """Where training fails, say what is saved; a known reason is a sentence and exit code 1, not a traceback."""
    from marlcomm.disk import DiskError
    from marlcomm.envs.faults import NoAnswerError, WorldError
    from marlcomm.rllib.errors import TrainingError
    from marlcomm.wire import WireError

    try:
        yield
    except Exception as error:
        known = isinstance(error, (TrainingError, WorldError, NoAnswerError, DiskError, WireError))
        if known:
            reason = str(getattr(error, "cause", error))  # Ray wraps what a worker raised
            err.print(f"[bold red]error:[/bold red] {escape(reason)}", highlight=False, soft_wrap=True)
        if run is not None and run.checkpoints():
            saved, go_on = escape(str(run.last_checkpoint())), escape(resume_command(run))
            err.print(f"saved: {saved}; continue with\n  [bold]{go_on}[/bold]", highlight=False, soft_wrap=True)
        if known:
            raise typer.Exit(1) from None
        raise


def _headline(figures: dict[str, float]) -> str:
    bits = figures.get("bandwidth/prefix_bits_per_message", 0.0)
    return (
        f"success {figures['train/success']:.2f}  return {figures['train/return']:.2f}  "
        f"{bits:.1f} bits/message  {figures['time/env_steps_per_second']:,.0f} env steps/s"
    )
