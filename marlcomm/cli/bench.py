"""marlcomm bench: what the tables compare with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from marlcomm import config, registry
from marlcomm.cli.shell import (
    Imports,
    RunFolder,
    Trust,
    checked_settings,
    command_line,
    err,
    file_to_write,
    folder_to_write,
    out,
    tell_where,
)
from marlcomm.registry import ConfigError

if TYPE_CHECKING:
    from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings

app = typer.Typer(help="Measure what the tables compare with.", no_args_is_help=True)


@app.command(name="card")
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
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="measure nothing, but add a run trained in silence, once a seed", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--out", callback=file_to_write, help="JSON file to write the cards to", show_default=False),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="write them to the package, for every later report")] = False,
    imports: Imports = None,
) -> None:
    """Measure an environment's card: random, floor and ceiling in every setting that it names."""
    from marlcomm.runs import Run

    config.import_plugins(imports or [])
    known = registry.ENVS.row(name).settings_model().card_settings  # type: ignore[attr-defined]
    chosen = [checked_settings("env", name, overrides, None)] if overrides else None
    if not (chosen or known):
        raise ConfigError(
            f"bench card: {name} is whatever env.maker makes, and has no card of its own: say which, as in marlcomm "
            f"bench card {name} env.maker=package.module:function"
        )
    if write and chosen is not None and chosen != list(known):
        raise ConfigError("--write: the package holds the cards of the settings that a world names; use --out FILE")
    runs = [Run.open(path) for path in silent or []]
    with out.status("measuring") as status:
        from marlcomm.analysis.cards import card_file, cards_with_silence, measure_cards, write_cards

        def watch(what: str) -> None:
            status.update(f"measuring {escape(what)}")

        measured = cards_with_silence(name, runs) if runs else measure_cards(name, episodes, chosen, watch)
    table = Table(title=name)
    for column in ("setting", "reference"):
        table.add_column(column)
    for column in ("success", "return"):
        table.add_column(column, justify="right")
    for setting, card in measured.items():
        figures = card.get("references", {}) | ({"trained in silence": card["silent"]} if "silent" in card else {})
        for reference, scores in figures.items():
            table.add_row(setting, reference, f"{scores['success']:.3f}", f"{scores['return']:.2f}")
    out.print(table)
    for target in [*([file] if file else []), *([card_file(name)] if write else [])]:
        write_cards(measured, target)
        tell_where(target)


@app.command(name="channels")
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
        Path | None,
        typer.Option("--out", callback=folder_to_write, help="folder for teams.json and teams.png", show_default=False),
    ] = None,
) -> None:
    """Train channel after channel on Communicating Goal, and draw return over bits beside the lower curve.

    What is trained already is not trained again, so a comparison that was stopped goes on.
    """
    settings = _goal_world(config_file)
    with out.status("comparing") as status:
        from marlcomm.analysis import proving_ground as ground

        for label in channels or []:
            if label not in ground.CHANNELS:
                raise ConfigError(
                    f"--channel: unknown {label!r}; {registry.nearest(label, ground.CHANNELS, quoted=True)}"
                )
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

        ground.write(teams, settings, target / "teams.json", command=command_line())
        draw_proving_ground(teams, ground.curve(settings), target / "teams.png")
        tell_where(target)


@app.command(name="frequency")
def bench_frequency(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a team on communicating_goal")],
    rate_weight: Annotated[float, typer.Option(min=0, help="of ddcl, to be compared with none")] = 3e-3,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds of each, from 0")] = 5,
    root: Annotated[Path, typer.Option("--runs", help="folder that runs are made in, and looked for")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="trainings at a time, of one thread each")] = 2,
    episodes: Annotated[int, typer.Option(min=1, help="episodes in which each team is listened to")] = 20_000,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=folder_to_write, help="folder for frequency.json and frequency.png", show_default=False
        ),
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

        frequency.write(teams, target / "frequency.json", command_line(), episodes)
        draw_frequency(teams, target / "frequency.png")
        tell_where(target)


def _goal_world(config_file: Path) -> CommunicatingGoalSettings:
    """The world of a config, if it is Communicating Goal."""
    from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings

    env = config.experiment(config.read(config_file)[0]).env
    settings, name = env.settings, env.name
    if not isinstance(settings, CommunicatingGoalSettings):
        raise ConfigError(f"env.name: got {name!r}, wanted communicating_goal, the world whose lower curve is known")
    return settings


@app.command(name="effective-symbols")
def bench_effective_symbols(
    run_folder: RunFolder,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="episodes; by default evaluation.episodes of the run")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="seed of the episodes; by default the run's")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--out", callback=file_to_write, help="JSON file to write the curve to", show_default=False),
    ] = None,
    trust: Trust = False,
) -> None:
    """Measure how many symbols of a message its receivers gain by: success where only the first ones are heard.

    The others are resampled from what the sender said in other episodes, or dropped where a message has an end mark.
    """
    from marlcomm.runs import Run

    run = Run.open(run_folder, trust)
    with out.status("listening"):
        from marlcomm.analysis import effective_symbols

        curve = effective_symbols.measure_run(run, episodes, seed)
    table = Table(title=f"success over {curve.episodes:,} episodes, the other symbols {curve.others}")
    for column in ("symbols heard", "success"):
        table.add_column(column, justify="right")
    for kept, success in enumerate(curve.success):
        table.add_row(str(kept), f"{success:.3f}")
    out.print(table)
    out.print(f"effective symbols: {curve.effective} of {len(curve.success) - 1}", highlight=False)
    if file is not None:
        effective_symbols.write(curve, run, file, command_line())
        tell_where(file)


@app.command(name="capacity")
def bench_capacity(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs under channel.name=dvq")],
    episodes: Annotated[int, typer.Option(min=2, help="episodes that each team is listened to")] = 2000,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="seed of the episodes; by default that of each run")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=folder_to_write, help="folder for capacity.json and capacity.png", show_default=False
        ),
    ] = None,
    trust: Trust = False,
) -> None:
    """Measure on what teams of dvq spend their bits: on hard episodes, on vectors that are hard to quantise?"""
    from marlcomm.runs import Run

    runs = [Run.open(folder, trust) for folder in run_folders]
    with out.status("listening") as status:
        from marlcomm.analysis import capacity

        for run in runs:  # before the first is listened to
            channel = run.experiment().channel
            capacity.check(channel.settings, f"bench capacity: {run.folder} has channel.name={channel.name}")
        teams = []
        for run in runs:
            status.update(f"listening to {escape(str(run.folder))}")
            teams.append(capacity.measure_run(run, episodes, seed))
    table = Table(
        title=f"bits of messages in {episodes:,} episodes: Spearman's correlation, 95 % interval over episodes"
    )
    for column in ("run", "bits"):
        table.add_column(column)
    measures = [name for name in capacity.MEASURES if any(name in team.relations for team in teams)]
    for name in measures:
        table.add_column(name.replace("_", "\n"), justify="right")
    for team in teams:
        relations = [team.relations.get(name) for name in measures]
        table.add_row(escape(team.run), f"{team.bits:.1f}", *map(str, (relation or "-" for relation in relations)))
    out.print(table)
    if target is not None:
        from marlcomm.analysis.pictures import draw_capacity

        capacity.write(teams, target / "capacity.json", command_line(), episodes)
        draw_capacity(teams, target / "capacity.png")
        tell_where(target)


@app.command(name="rate-distortion")
def bench_rate_distortion(
    channels: Annotated[
        str | None, typer.Option(help="names with commas between; by default all", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how often to train each channel")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="updates of each training")] = 400,
    file: Annotated[
        Path | None,
        typer.Option("--out", callback=file_to_write, help="JSON file to write points to", show_default=False),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--picture", callback=file_to_write, help="PNG file to draw them in", show_default=False),
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
        rate_distortion.write(points, file, command=command_line())
    if image is not None:
        from marlcomm.analysis.pictures import draw_rate_distortion

        draw_rate_distortion(points, image)
    for target in filter(None, (file, image)):
        tell_where(target)
    below = [point for point in points if point.impossible]
    for point in below:
        err.print(f"below Shannon's bound: {point.part} {point.source} {escape(point.label)}, {point.bits:.2f} bits")
    if below:
        raise typer.Exit(1)
