"""The command line: marlcomm train | evaluate | decode | list | check | data | bench."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import marlcomm
from marlcomm import config, registry
from marlcomm.registry import ConfigError

if TYPE_CHECKING:
    from marlcomm.config import Experiment
    from marlcomm.contract import Finding
    from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings
    from marlcomm.rllib.algorithm import TeamAlgorithm
    from marlcomm.runs import Run

app = typer.Typer(
    help="Train teams of agents that talk under a bit budget, and count the bits honestly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
check_app = typer.Typer(help="Check a channel or a world of yours against its contract.", no_args_is_help=True)
data_app = typer.Typer(help="Build data sets of worlds.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure what the tables compare with.", no_args_is_help=True)
app.add_typer(check_app, name="check")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")

_ROUNDS_PER_LINE = 10  # in a log file, where there is no bar

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


def main() -> None:
    """Entry point: a wrong setting is a sentence and exit code 2, never a traceback."""
    sys.path.append(os.getcwd())  # where modules of the user's own lie
    try:
        app()
    except ConfigError as error:
        for line in str(error).splitlines():
            err.print(f"[bold red]error:[/bold red] {escape(line)}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"marlcomm {marlcomm.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config_file: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file, as in configs/", show_default=False)
    ] = None,
    overrides: Overrides = None,
    imports: Imports = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="continue a run from its last checkpoint", show_default=False)
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="start from the weights of a trained team; without CONFIG with its settings too",
            show_default=False,
        ),
    ] = None,
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
) -> None:
    """Train a team, then evaluate its last checkpoint.

    Ctrl-C finishes the update, saves and tells how to resume; a second Ctrl-C stops at once.
    """
    from marlcomm.rllib.cluster import check_cpus
    from marlcomm.runs import Run

    if config_file is not None and "=" in config_file.name and not config_file.exists():
        config_file, overrides = None, [str(config_file), *(overrides or [])]
    if resume is not None:
        if config_file is not None or overrides or imports or init_from is not None:
            raise ConfigError("--resume takes a run and nothing else: a run continues with the settings it has")
        if dry:
            raise ConfigError("--dry-run tries a run that has not begun: leave out --resume")
        run = Run.open(resume)
        settings = run.experiment()
        run.last_checkpoint()
    elif config_file is None and init_from is None and not overrides:
        raise ConfigError(
            "train: wanted a config file or settings, as in marlcomm train configs/demo.yaml or "
            "marlcomm train env.name=particle_spread, or --resume RUN"
        )
    else:
        settings = _settings(config_file, overrides or [], imports or [], init_from)
        check_cpus(settings)
        if dry:
            _dry_run(settings)
            return
        run = Run.create(settings, root, sys.argv[1:])
    try:
        exit_code = _train(run, settings, resuming=resume is not None)
    except ConfigError:
        if not run.checkpoints():
            run.discard()
        raise
    if exit_code is not None:
        out.print(
            f"\nstopped and saved; continue with\n  [bold]{escape(_resume(run))}[/bold]",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(exit_code)
    if evaluate_after:
        try:
            _evaluate(run, settings, None, None)
        except KeyboardInterrupt:
            again = f"{_program('marlcomm')} evaluate {run.folder}"
            out.print(f"\ntrained and saved; evaluate with\n  [bold]{escape(again)}[/bold]", soft_wrap=True)
            raise typer.Exit(130) from None
    out.print(
        f"\ncurves: [bold]{escape(_program('tensorboard'))} --logdir {escape(str(run.folder))}[/bold]",
        highlight=False,
        soft_wrap=True,
    )


def _program(name: str) -> str:
    """How this shell calls a program of this Python's environment: by name, or by path where that is not on PATH."""
    ours = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and (not ours.exists() or Path(found).samefile(ours)):
        return name
    return os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours)


def _resume(run: Run) -> str:
    return f"{_program('marlcomm')} train --resume {run.folder}"


def _command() -> str:
    return " ".join(["marlcomm", *sys.argv[1:]])


def _tell_where(target: Path) -> None:
    out.print(f"written to {escape(str(target))}", highlight=False, soft_wrap=True)


def _settings(file: Path | None, overrides: list[str], imports: list[str], init_from: Path | None) -> Experiment:
    from marlcomm.runs import Run

    if init_from is not None:
        parent = Run.open(init_from)
        file = parent.folder / "config.yaml" if file is None else file
        overrides = [*overrides, f"init_from={parent.last_checkpoint()}"]
    data, notes = config.merge({}, overrides) if file is None else config.read(file, overrides)
    if imports:
        listed = data.get("imports") or []
        data["imports"] = [*listed, *imports] if isinstance(listed, list) else listed
    settings = config.experiment(data)
    for note in notes:
        err.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False, soft_wrap=True)
    return settings


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
        _print_remarks(algorithm.remarks)
        with _progress() as progress, _told_how_to_go_on(run):
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
    _print_remarks(tried.remarks)
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


def _print_remarks(remarks: list[str]) -> None:
    for remark in remarks:
        out.print(escape(remark), highlight=False, soft_wrap=True)


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
    from marlcomm.checkpoint import read_policy
    from marlcomm.policies.team import what_fits

    policy = algorithm.env_runner.module.policy
    fresh = sorted(policy.state_dict().keys() - what_fits(policy, read_policy(folder)))
    err.print(
        f"[yellow]note:[/yellow] weights of {escape(str(folder))}; new are {', '.join(fresh) or 'none'}",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _told_how_to_go_on(run: Run | None) -> Iterator[None]:
    """Where training fails, say what is saved; a known reason is a sentence and exit code 1, not a traceback."""
    from marlcomm.rllib.learner import TrainingError
    from marlcomm.wire import WireError

    try:
        yield
    except Exception as error:
        known = isinstance(error, (TrainingError, WireError))
        if known:
            reason = str(getattr(error, "cause", error))  # Ray wraps what a worker raised
            err.print(f"[bold red]error:[/bold red] {escape(reason)}", highlight=False, soft_wrap=True)
        if run is not None and run.checkpoints():
            saved, go_on = escape(str(run.last_checkpoint())), escape(_resume(run))
            err.print(f"saved: {saved}; continue with\n  [bold]{go_on}[/bold]", highlight=False, soft_wrap=True)
        if known:
            raise typer.Exit(1) from None
        raise


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=out,
    )


def _headline(figures: dict[str, float]) -> str:
    bits = figures.get("bandwidth/prefix_bits_per_message", 0.0)
    return (
        f"success {figures['train/success']:.2f}  return {figures['train/return']:.2f}  "
        f"{bits:.1f} bits/message  {figures['time/env_steps_per_second']:,.0f} env steps/s"
    )


@app.command()
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run, or the folder above its runs")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[channel.KEY=VALUE | env.KEY=VALUE]...",
            help="another channel, team size, density or map for the trained team",
            show_default=False,
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="episodes; by default evaluation.episodes of the run")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="seed of the evaluation's worlds; by default the run's")
    ] = None,
    wire: Annotated[bool, typer.Option("--wire", help="store every packet, for marlcomm decode RUN")] = False,
) -> None:
    """Evaluate a run's last checkpoint between floor and ceiling, and write summary.json.

    With channel.name=post_training channel.bits=4 (say) the trained team talks through another channel, without
    training, and with env.add_rate=0.5 it plays in another density (or size, or map) of its world, where the policy's
    widths allow. The file is named by what was changed, as in summary-vq-codebook_size-8.json.
    """
    from marlcomm.runs import Run

    run = Run.open(run_folder)
    changes = overrides or []
    for change in changes:
        if not change.startswith(("channel.", "env.")) or change.startswith("env.name="):
            raise ConfigError(
                f"evaluate: got {change!r}, wanted channel.KEY=VALUE or env.KEY=VALUE: all else is as it was trained"
            )
    if wire and changes:
        raise ConfigError("--wire stores the packets of a run as it was trained: leave out " + ", ".join(changes))
    _evaluate(run, run.experiment(changes), episodes, seed, changes)
    if wire:
        from marlcomm.analysis.trace import record_run

        with out.status("storing every packet"):
            file = record_run(run, run.experiment(), episodes=episodes, seed=seed)
        out.print(f"packets in {escape(str(file))}", highlight=False, soft_wrap=True)


@app.command()
def decode(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="run that was evaluated with --wire")],
) -> None:
    """Decode every stored packet, and prove that who hears nothing else plays the same."""
    from marlcomm.runs import Run

    run = Run.open(run_folder)
    settings = run.experiment()
    run.last_checkpoint()
    with out.status("decoding"):
        from marlcomm.analysis.trace import prove_run
        from marlcomm.wire import WireError

        try:
            trace = prove_run(run, settings)
        except WireError as error:
            err.print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None
    out.print(
        f"{len(trace.sizes):,} packets of {int(trace.sizes.sum()):,} bytes decoded; played from them alone, all "
        f"{len(trace.returns):,} episodes have the recorded actions and returns (mean {trace.returns.mean():.3f})",
        highlight=False,
        soft_wrap=True,
    )


def _evaluate(
    run: Run, settings: Experiment, episodes: int | None, seed: int | None, changes: list[str] | None = None
) -> None:
    run.last_checkpoint()
    with out.status("evaluating") as status:
        from marlcomm.analysis.evaluation import evaluate_run
        from marlcomm.analysis.report import summary_table

        summary = evaluate_run(
            run, settings, episodes=episodes, seed=seed, watch=lambda what: status.update(f"evaluating: {what}")
        )
    file = run.write_summary(summary, changes or ())
    out.print()
    out.print(summary_table(summary))
    _tell_where(file)


@app.command(name="list")
def list_things(
    kind: Annotated[str, typer.Argument(metavar="envs|channels|policies|algorithms", help="what to list")],
    name: Annotated[str | None, typer.Argument(help="one of them: list its settings", show_default=False)] = None,
    imports: Imports = None,
) -> None:
    """List what is registered, or the settings of one thing."""
    config.import_plugins(imports or [])
    tables = {table.plural: table for table in registry.TABLES.values()}
    if kind not in tables:
        raise ConfigError(f"list: unknown kind {kind!r}; {registry.nearest(kind, tables)}")
    table = Table(box=None, pad_edge=False)
    table.add_column("name" if name is None else "setting", style="bold")
    if name is None:
        tables[kind].discover()
        table.add_column("what it is")
        for row in tables[kind].rows.values():
            table.add_row(row.name, row.summary)
    else:
        table.add_column("default")
        table.add_column("what it does")
        for key, field in tables[kind].row(name).settings_model().model_fields.items():
            default = "" if field.is_required() else str(field.get_default(call_default_factory=True))
            table.add_row(key, escape(default), escape(field.description or ""))
    out.print(table, highlight=False)


@check_app.command(name="channel")
def check_channel(
    name: Annotated[str, typer.Argument(help="name of a registered channel")],
    overrides: Overrides = None,
    message_size: Annotated[int, typer.Option(min=1, help="width of the message vector")] = 8,
    imports: Imports = None,
) -> None:
    """Check every promise that a channel must keep."""
    settings = _checked_settings("channel", name, overrides, imports)
    registry.CHANNELS.check(name, settings).fit(message_size)  # type: ignore[attr-defined]
    with out.status("importing torch"):
        from marlcomm.channels.check import check_channel as check
        from marlcomm.policies.team import make_channel
    _print_findings(f"channel {name}", check(lambda: make_channel(name, settings, message_size)))


@check_app.command(name="env")
def check_env(
    name: Annotated[str, typer.Argument(help="name of a registered environment")],
    overrides: Overrides = None,
    device: Annotated[str, typer.Option(help="where its tensors are: cpu, cuda, ...")] = "cpu",
    imports: Imports = None,
) -> None:
    """Check every promise that a batched world must keep."""
    settings = registry.ENVS.check(name, _checked_settings("env", name, overrides, imports))
    with out.status("importing torch"):
        from marlcomm.envs.check import check_env as check

        world = registry.ENVS.row(name).load()
    _print_findings(f"env {name}", check(lambda: world(settings, device)))


def _checked_settings(kind: str, name: str, overrides: list[str] | None, imports: list[str] | None) -> dict[str, Any]:
    """The settings of the thing to check, whose name is given already."""
    config.import_plugins(imports or [])
    settings, _ = config.merge({}, [override.removeprefix(f"{kind}.") for override in overrides or []])
    if "name" in settings:
        raise ConfigError(f"name: got {settings['name']!r}, but the {kind} to check is {name!r} already")
    return settings


def _print_findings(what: str, findings: list[Finding]) -> None:
    """What was found, promise by promise; exit code 1 if one is broken."""
    for finding in findings:
        mark = "[green]ok[/green]  " if finding.problem is None else "[red]fail[/red]"
        if finding.unchecked is not None:
            mark = "[yellow]?[/yellow]   "
        out.print(f"{mark} {escape(finding.promise)}", highlight=False)
        sentence = finding.problem or finding.unchecked
        if sentence is not None:
            out.print(f"     {escape(sentence)}", highlight=False, soft_wrap=True)
    broken = sum(finding.problem is not None for finding in findings)
    if broken:
        out.print(f"{broken} of {len(findings)} promises are broken")
        raise typer.Exit(1)
    unchecked = sum(finding.unchecked is not None for finding in findings)
    rest = f"; {unchecked} could not be checked, or not wholly" if unchecked else ""
    out.print(f"{what} keeps all {len(findings) - unchecked} promises{rest}", highlight=False, soft_wrap=True)


@data_app.command(name="lewis_game")
def data_lewis_game(
    target: Annotated[Path, typer.Option("--out", help="file to write; egg: two, .training and .validation in them")],
    rounds: Annotated[int, typer.Option(min=2, help="rounds of both splits")] = 10_000,
    validation: Annotated[
        int | None, typer.Option(min=1, help="how many of them to keep for validation; by default a fifth")
    ] = None,
    min_symbols: Annotated[int, typer.Option(help="the fewest attribute values that tell a target from all")] = 2,
    distractors: Annotated[int, typer.Option(help="candidates of a round besides the target")] = 63,
    attributes: Annotated[int, typer.Option(help="of an object")] = 20,
    values: Annotated[int, typer.Option(help="of an attribute")] = 4,
    seed: Annotated[int, typer.Option(help="seed of the rounds, as env.rounds_seed")] = 0,
    file_format: Annotated[
        str, typer.Option("--format", help="npz, for env.rounds; or egg, the text of its discrimination game")
    ] = "npz",
) -> None:
    """Build rounds of the Lewis game that need a given number of symbols.

    Ctrl-C leaves no file half written.
    """
    from marlcomm.envs.lewis_game.settings import LewisGameSettings

    held_out = max(rounds // 5, 1) if validation is None else validation
    if held_out >= rounds:
        raise ConfigError(f"--validation: got {held_out}, wanted fewer than --rounds, {rounds} (nearest: {rounds - 1})")
    if not target.parent.is_dir():
        raise ConfigError(f"--out: no folder {str(target.parent)!r}")
    if target.is_dir():
        raise ConfigError(f"--out: {str(target)!r} is a folder, wanted a file")
    chosen = {"min_symbols": min_symbols, "distractors": distractors, "attributes": attributes, "values": values}
    counts = {"rounds_seed": seed, "training_rounds": rounds - held_out, "validation_rounds": held_out}
    settings = registry.ENVS.check("lewis_game", chosen | counts)
    assert isinstance(settings, LewisGameSettings)
    with out.status("importing torch"):
        from marlcomm.envs.lewis_game.files import WRITERS
        from marlcomm.envs.lewis_game.rounds import build_rounds, refuse_rare

        if file_format not in WRITERS:
            raise ConfigError(f"--format: unknown {file_format!r}; {registry.nearest(file_format, WRITERS)}")
    with out.status("estimating how many there are"):
        found = refuse_rare(settings.game)
    out.print(f"{found} of random rounds need {min_symbols} symbols", highlight=False)
    try:
        with _progress() as progress:
            bar = progress.add_task("rounds", total=rounds, figures="")
            built = build_rounds(
                settings.game,
                rounds - held_out,
                held_out,
                seed,
                watch=lambda count: progress.update(bar, completed=count, figures=f"{count:,} rounds"),
            )
        with out.status("writing"):
            files = WRITERS[file_format](built, target)
    except KeyboardInterrupt:
        out.print("stopped; nothing was written")
        raise typer.Exit(130) from None
    for file in files:
        _tell_where(file)


@bench_app.command(name="card")
def bench_card(
    name: Annotated[str, typer.Argument(help="name of a registered environment")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="one setting of it, in place of all that it names", show_default=False
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="episodes of each reference")] = 4000,
    silent: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="a run trained in silence, once a seed", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--out", help="JSON file to write the cards to", show_default=False)
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="write them to the package, for every later report")] = False,
    imports: Imports = None,
) -> None:
    """Measure an environment's card: random, floor and ceiling in every setting that it names."""
    from marlcomm.runs import Run

    config.import_plugins(imports or [])
    known = registry.ENVS.row(name).settings_model().card_settings  # type: ignore[attr-defined]
    chosen = [_checked_settings("env", name, overrides, None)] if overrides else list(known)
    if not chosen:
        raise ConfigError(
            f"bench card: {name} is whatever env.maker makes, and has no card of its own: say which, as in marlcomm "
            f"bench card {name} env.maker=package.module:function"
        )
    if write and chosen != list(known):
        raise ConfigError("--write: the package holds the cards of the settings that a world names; use --out FILE")
    runs = [Run.open(path) for path in silent or []]
    with out.status("measuring") as status:
        from marlcomm.analysis.cards import card_file, measure_cards, silent_entry, write_cards

        learned = [silent_entry(runs)] if runs else []
        measured = measure_cards(name, episodes, chosen, watch=lambda what: status.update(f"measuring {escape(what)}"))
    for setting, entry in learned:
        measured.setdefault(setting, {})["silent"] = entry
    table = Table(title=f"{name}: {episodes} episodes each")
    for column in ("setting", "reference"):
        table.add_column(column)
    for column in ("success", "return"):
        table.add_column(column, justify="right")
    for setting, card in measured.items():
        figures = card.get("references", {}) | ({"silent": card["silent"]} if "silent" in card else {})
        for reference, scores in figures.items():
            table.add_row(setting, reference, f"{scores['success']:.3f}", f"{scores['return']:.2f}")
    out.print(table)
    for target in [*([file] if file else []), *([card_file(name)] if write else [])]:
        write_cards(measured, target)
        _tell_where(target)


@bench_app.command(name="channels")
def bench_channels(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a team on communicating_goal")],
    channels: Annotated[
        list[str] | None,
        typer.Option("--channel", help="one of them, once or more; by default all", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds of each, from 0")] = 3,
    root: Annotated[Path, typer.Option("--runs", help="folder that runs are made in, and looked for")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="trainings at a time, of one thread each")] = 2,
    target: Annotated[
        Path | None, typer.Option("--out", help="folder for teams.json and teams.png", show_default=False)
    ] = None,
) -> None:
    """Train every channel on Communicating Goal, and draw return over bits beside the lower curve.

    What is trained already is not trained again, so a comparison that was stopped goes on.
    """
    settings = _goal_world(config_file)
    with out.status("comparing") as status:
        from marlcomm.analysis import proving_ground as ground

        for label in channels or []:
            if label not in ground.CHANNELS:
                raise ConfigError(f"--channel: unknown {label!r}; {registry.nearest(label, ground.CHANNELS)}")
        labels = channels or list(ground.CHANNELS)
        teams = ground.compare(config_file, labels, seeds, root, jobs, watch=lambda what: status.update(escape(what)))
    table = Table(title=f"communicating goal, {seeds} seeds each")
    table.add_column("channel")
    for column in ("seed", "return", "way from silence to oracle", "coded bits/agent step", "prefix bits/message"):
        table.add_column(column, justify="right")
    for team in teams:
        figures = team.figures
        numbers = (figures["return"], team.normalized_return, figures["coded_bits_per_agent_step"])
        prefix = figures.get("prefix_bits_per_message")
        cells = [f"{number:.3f}" for number in numbers] + ["-" if prefix is None else f"{prefix:.2f}"]
        table.add_row(escape(team.label), str(team.seed), *cells)
    out.print(table)
    if target is not None:
        from marlcomm.analysis.pictures import draw_proving_ground

        ground.write(teams, settings, target / "teams.json", command=_command())
        draw_proving_ground(teams, ground.curve(settings), target / "teams.png")
        _tell_where(target)


@bench_app.command(name="frequency")
def bench_frequency(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a team on communicating_goal")],
    rate_weight: Annotated[float, typer.Option(min=0, help="of ddcl, to be compared with none")] = 3e-3,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds of each, from 0")] = 5,
    root: Annotated[Path, typer.Option("--runs", help="folder that runs are made in, and looked for")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="trainings at a time, of one thread each")] = 2,
    episodes: Annotated[int, typer.Option(min=1, help="episodes in which each team is listened to")] = 20_000,
    target: Annotated[
        Path | None, typer.Option("--out", help="folder for frequency.json and frequency.png", show_default=False)
    ] = None,
) -> None:
    """Train ddcl with a rate weight and without, and correlate how often a goal is drawn with the bits it costs.

    What is trained already is not trained again, so a comparison that was stopped goes on.
    """
    _goal_world(config_file)
    with out.status("comparing") as status:
        from marlcomm.analysis import frequency

        teams = frequency.compare(
            config_file, rate_weight, seeds, root, jobs, episodes, watch=lambda what: status.update(escape(what))
        )
    table = Table(
        title=f"communicating goal under ddcl, {seeds} seeds: how often goals are drawn, and their Elias-gamma bits",
        caption=f"the paper's Pearson correlation, of bits that no code has: {frequency.PUBLISHED_PEARSON}",
        box=None,
        padding=(0, 1, 0, 0),
    )
    columns = ("rate\nweight", "seed", "success", "way to\noracle", "Spearman", "Pearson", "bits per\nmessage")
    for column in (*columns, "H(goal)", "H(m)", "H(m |\ndither)"):
        table.add_column(column, justify="right", vertical="bottom")
    for team in teams:
        numbers = [team.success, team.normalized_return, team.spearman["code_bits"], team.pearson["code_bits"]]
        numbers += [team.code_bits, team.goal_entropy, team.entropy, team.entropy_given_dither]
        cells = ["-" if number is None else f"{number:.2f}" for number in numbers]
        table.add_row(f"{team.rate_weight:g}", str(team.seed), *cells)
    out.print(table)
    if target is not None:
        from marlcomm.analysis.pictures import draw_frequency

        frequency.write(teams, target / "frequency.json", _command(), episodes)
        draw_frequency(teams, target / "frequency.png")
        _tell_where(target)


def _goal_world(config_file: Path) -> CommunicatingGoalSettings:
    """The world of a config, if it is Communicating Goal."""
    from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings

    settings = config.experiment(config.read(config_file)[0]).env.settings
    if not isinstance(settings, CommunicatingGoalSettings):
        raise ConfigError("env.name: wanted communicating_goal, the world whose lower curve is known")
    return settings


@bench_app.command(name="rate-distortion")
def bench_rate_distortion(
    channels: Annotated[
        str | None, typer.Option(help="names with commas between; by default all", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how often to train each channel")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="updates of each training")] = 400,
    file: Annotated[Path | None, typer.Option("--out", help="JSON file to write points to", show_default=False)] = None,
    image: Annotated[
        Path | None, typer.Option("--picture", help="PNG file to draw them in", show_default=False)
    ] = None,
) -> None:
    """Measure rate and distortion of channels on Gaussian vectors, beside Shannon's bound.

    Exit code 1 if a point lies below the bound: its bits were not counted right.
    """
    names = None if channels is None else channels.split(",")
    with out.status("measuring") as status:
        from marlcomm.analysis import rate_distortion

        points = rate_distortion.sweep(names, seeds, steps=steps, watch=lambda what: status.update(escape(what)))
    table = Table(title="rate and distortion on Gaussian vectors")
    for column in ("part", "source", "channel"):
        table.add_column(column)
    for column in ("bits", "packet bits", "mse", "gap dB"):
        table.add_column(column, justify="right")
    for point in points:
        figures = (f"{point.bits:.2f}", f"{point.packet_bits:.2f}", f"{point.mse:.3g}", f"{point.gap_db:.2f}")
        table.add_row(point.part, point.source, point.label, *figures)
    out.print(table)
    if file is not None:
        rate_distortion.write(points, file, command=_command())
    if image is not None:
        from marlcomm.analysis.pictures import draw_rate_distortion

        draw_rate_distortion(points, image)
    for target in filter(None, (file, image)):
        _tell_where(target)
    below = [point for point in points if point.impossible]
    for point in below:
        err.print(f"below Shannon's bound: {point.part} {point.source} {escape(point.label)}, {point.bits:.2f} bits")
    if below:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
