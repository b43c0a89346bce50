"""Studies: what is trained, tuned, judged and told, by one command each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from commands import wait_for

from marlcomm import checkpoint
from marlcomm.analysis import trainings
from marlcomm.analysis.evidence import way
from marlcomm.analysis.findings import bits_told, rows, scale
from marlcomm.analysis.pictures import draw_study
from marlcomm.analysis.results_page import section, write_page
from marlcomm.analysis.study import Study, ahead, run, tune
from marlcomm.analysis.study_settings import Hull
from marlcomm.config import merge
from marlcomm.registry import ConfigError

CONFIG = """
env: {name: traffic_junction}
policy: {name: transformer, message_size: 2, width: 8, hidden_size: 8, heads: 2}
algorithm: {name: mappo, num_minibatches: 1, num_epochs: 1}
run: {worlds: 8, env_steps: 320, evaluate_every: 1, evaluation_worlds: 8, checkpoint_every: 50}
evaluation: {episodes: 20, code_episodes: 10}
"""
STUDY = """
title: Small
about: Cars that hardly learn.
config: small.yaml
seeds: [0, 1]
most_bits: 16
changes: [run.env_steps=160]
teams:
  continuous: [channel.name=continuous]
  silent: [channel.name=silent]
  vq: [channel.name=vq]
afterwards:
  continuous, 2 bits: {of: continuous, changes: [channel.name=post_training, channel.bits=2]}
reach: {continuous: 2.0}
known: {by a proof: 0.875}
tuning_seeds: [1000]
trials:
  vq: [[channel.codebook_size=4], [channel.codebook_size=8]]
  continuous: [[algorithm.lr=1e-3], [algorithm.lr=1e-4]]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def test_a_study_is_tuned_run_and_reported(folder, trainings_here, monkeypatch):
    study = Study.read(folder / "study.yaml", folder / "results")
    with pytest.raises(ConfigError, match="settings of continuous, vq have not been chosen yet"):
        run(study, folder / "runs", 1)
    trials = tune(study, folder / "runs", 1)
    assert [(trial["team"], list(trial["by_seed"])) for trial in trials] == [
        (team, ["1000"]) for team in ("vq", "vq", "continuous", "continuous")
    ]
    chosen = {trial["team"]: trial["changes"] for trial in trials if trial["chosen"]}
    assert list(chosen) == ["vq", "continuous"]
    assert study.chosen() == {
        "continuous": ("run.env_steps=160", "channel.name=continuous", *chosen["continuous"]),
        "silent": ("run.env_steps=160", "channel.name=silent"),
        "vq": ("run.env_steps=160", "channel.name=vq", *chosen["vq"]),
    }
    run(study, folder / "runs", 1, seeds=[1])
    found = {row.label: row for row in rows(study)}
    assert list(found) == ["continuous", "silent", "vq", "continuous, 2 bits"]
    (summary,) = found["vq"].summaries
    assert f"channel.codebook_size={summary['channel_settings']['codebook_size']}" in chosen["vq"]
    assert (summary["seed"], summary["env_steps"], summary["stream"]) == (1, 160, "evaluation")
    assert 0 < summary["core_seconds"] < 60
    assert {"processor", "cores"} <= summary["machine"].keys()
    assert summary["no_evidence"] == ["20 episodes, and evidence takes 2,000"]
    assert found["continuous"].reached is False  # nor could it be
    assert found["silent"].bits.mean == 0
    assert [env_steps for env_steps, _ in summary["curve"]] == [160]
    # What is trained already is not trained again, and the page is made of the result files alone.
    monkeypatch.setattr(trainings, "run", None)
    told = trainings_here("study", "run", "study.yaml", "--seed", 1, cwd=folder).stdout
    assert "continuous, 2 bits" in told
    assert "yes" in trainings_here("study", "tune", "study.yaml", cwd=folder).stdout
    shutil.rmtree(folder / "runs")
    done = trainings_here("study", "report", "--out", "docs/results.md", cwd=folder, code=2)
    assert "no studies/*.yaml here" in done.stderr
    trainings_here("study", "report", "study.yaml", "--out", "docs/results.md", cwd=folder)
    page = (folder / "docs/results.md").read_text()
    asked = "continuous: mean at least 2: **no evidence** so far, by 1 of 2 seeds"
    for words in (
        "## Small",
        "Cars that hardly learn.",
        "| *by a proof* | 0.875 |",
        asked,
        "| vq - silent |",
        summary["command"],
    ):
        assert words in page
    besides = summary["parameters"] - summary["channel_parameters"]
    assert f"- Parameters (of them the channel's): continuous {besides:,} (0), " in page
    assert "marlcomm evaluate runs/continuous-1 channel.name=post_training channel.bits=2" in page
    assert "no evidence: vq, seed 1: 20 episodes" in page
    assert "none: vq and silent are no evidence" in page
    assert "Not run yet: continuous (seed 0); silent (seed 0); vq (seed 0); continuous, 2 bits (seed 0)." in page
    assert (folder / "docs/pictures/results_study.png").stat().st_size > 10_000


def write(study, label, seed, settings=None, env_steps=100, curve=(), setting="easy", recipe=None, **figures):
    """A result file by hand: success, and 8 bits if nothing else is said; what references reach."""
    study.results.mkdir(parents=True, exist_ok=True)
    data, _ = trainings.config_data(study.config, [*study.recipes()[recipe or label], f"seed={seed}"])
    trained = trainings.experiment(merge(data, settings or [])[0])
    summary = {"seed": seed, "evaluation/coded_bits_per_agent_step": 8.0, "env_steps": env_steps, "core_seconds": 60.0}
    summary |= {
        "settings": trained.as_data(),
        "channel": trained.channel.name,
        "env": "traffic_junction",
        "setting": setting,
        "no_evidence": [],
        "episodes": 2000,
        "stream": "evaluation",
        "trained": 1.0,
        "evaluation_seed": seed,
        "command": "marlcomm",
    }
    if (command := study.evaluation_command(label, seed)) is not None:
        summary["evaluation_command"] = command
    summary |= {
        "floor": "always_gas",
        "ceiling": "scheduler",
        "floor/return": -9.0,
        "ceiling/return": -1.0,
        "evaluation/return": -3.0,
    }
    summary |= {"floor/return_standard_error": 0.3, "ceiling/return_standard_error": 0.4}
    summary |= {"floor/success_standard_error": 0.003, "ceiling/success_standard_error": 0.004}
    summary |= {"machine": {"processor": "hands", "cores": 2}, "versions": {}}
    summary |= {"floor/success": 0.2, "ceiling/success": 1.0} | {f"evaluation/{k}": v for k, v in figures.items()}
    (study.results / f"{trainings.team_name(label, seed)}.json").write_text(json.dumps(summary | {"curve": curve}))


def untuned(folder):
    """The study, its settings not to be chosen by trials."""
    study = Study.read(folder / "study.yaml", folder / "results")
    return replace(study, settings=study.settings.model_copy(update={"trials": {}}))


def test_rows_by_hand(folder):
    study = untuned(folder)
    for seed in (0, 1):
        write(study, "continuous", seed, success=0.97 + 0.01 * seed)
        write(study, "vq", seed, success=0.962 - 0.01 * seed)
    assert rows(study)[1].reasons == ["there is no silent team to compare with"]
    write(study, "silent", 0, success=0.2)
    continuous, _, vq = rows(study)
    assert continuous.figure.mean == pytest.approx(0.975)
    assert (continuous.reasons, continuous.counts) == (None, "")
    assert continuous.way("return") == 0.75
    assert continuous.way("success") == pytest.approx(0.775 / 0.8)
    assert way(continuous.summaries[0] | {"ceiling/return": -8.01}, "return") is None  # two errors of .5 are 1
    assert way(continuous.summaries[0] | {"ceiling/return": -7.99}, "return") == pytest.approx(6 / 1.01)
    assert continuous.cost == (100, 1)
    assert vq.reasons == []  # .018 worse than continuous
    assert (vq.bits_by_seed, vq.bits.mean) == ({0: 8.0, 1: 8.0}, 8.0)
    assert vq.against["continuous"].difference.mean == pytest.approx(-0.018)
    assert vq.against["continuous"].claim is None  # two pairs
    hull = {"of": ["continuous"], "above": ["vq"]}
    beside = Study(study.name, study.settings.model_copy(update={"hull": Hull(**hull)}), study.config, study.results)
    assert rows(beside)[2].against["upper hull of 1"].difference.mean == pytest.approx(-0.018)
    write(study, "vq", 1, success=0.94)
    assert rows(study)[2].reasons == ["0.024 worse than continuous, 0.02 is allowed"]
    for within, reached in ((0.024, True), (0.0239, False)):
        asked = study.settings.model_copy(update={"within": {"vq": within + 1e-9}})
        assert rows(Study(study.name, asked, study.config, study.results))[2].reached is reached
    ends = scale(study, vq.summaries)
    assert (ends.floor, ends.ceiling) == (pytest.approx(0.2), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"episodes": 50}, "50 episodes, and evidence takes 2,000"),
        ({"stream": "tuning"}, "played on the stream 'tuning', on which settings are chosen"),
        ({"evaluation_seed": 7}, "played the worlds of seed 7"),
    ],
)
def test_results_are_judged_by_what_they_say_and_not_by_their_own_judgement(folder, change, doubt):
    study = untuned(folder)
    write(study, "vq", 1, success=0.97)
    file = study.results / "vq-1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    (vq,) = rows(study)
    assert vq.doubts == [f"seed 1: {doubt}"]
    assert "vq is no evidence" in vq.reasons


def trial(team, rate, figure, chosen=False, seed=1000):
    return {"team": team, "changes": [f"algorithm.lr={rate}"], "by_seed": {str(seed): figure}, "chosen": chosen}


@pytest.mark.parametrize(
    ("trials", "doubts"),
    [
        ([trial("continuous", "1e-3", 0.4), trial("continuous", "1e-4", 0.5, True)], []),
        ([trial("continuous", "1e-4", 0.5, True)], ["its settings were chosen among others than the study's trials"]),
        (
            [trial("continuous", "1e-3", 0.6), trial("continuous", "1e-4", 0.5, True)],
            ["its settings are not those of the best trial"],
        ),
        (
            [trial("continuous", "1e-3", 0.4), trial("continuous", "1e-4", 0.5, True, seed=0)],
            ["its settings were chosen on other seeds than the study's tuning_seeds"],
        ),
        (
            [
                trial("continuous", "1e-3", 0.9) | {"by_seed": {}, "failed": "out of memory"},
                trial("continuous", "1e-4", 0.5, True),
            ],
            [],
        ),
    ],
)
def test_settings_are_those_of_the_best_of_the_studys_trials(folder, trials, doubts):
    study = Study.read(folder / "study.yaml", folder / "results")
    study.keep_trials(trials)
    write(study, "continuous", 0, success=0.97)
    write(study, "silent", 0, success=0.2)
    assert [row.doubts for row in rows(study)] == [doubts, []]


def test_bits_are_compared_with_numbers_of_the_same_recipe(folder):
    study = untuned(folder)
    write(study, "continuous", 0, coded_bits_per_agent_step=64.0, compression_ratio=1.0, success=0.97)
    write(
        study, "vq", 0, coded_bits_per_agent_step=4.0, compression_ratio=128.0, success=0.97
    )  # messages of 16 numbers
    assert "| 4.00 | 16.0 |" in section(study, rows(study))
    (study.results / "continuous-0.json").unlink()
    assert "| 4.00 | 128.0 |" in section(study, rows(study))


def test_the_page_says_how_often_gates_are_open(folder):
    study = untuned(folder)
    write(study, "continuous", 0, success=0.97)
    assert "Gates open" not in section(study, rows(study))
    write(study, "vq", 0, success=0.97, gate_rate=0.25, effective_gate_rate=0.125)
    assert "(where somebody heard): vq 0.250 (0.125)." in section(study, rows(study))


def test_bits_of_a_read_out_are_told_and_do_not_count(folder):
    study = untuned(folder)
    for seed in (0, 1):
        write(study, "continuous", seed, success=0.97)
        write(study, "silent", seed, success=0.2)
        write(study, "vq", seed, success=0.97, coded_bits_per_agent_step=64.0, bottleneck_bits_per_agent_step=4.0)
    continuous, _, vq = rows(study)
    assert (vq.bits_by_seed, vq.bits.mean) == ({0: 4.0, 1: 4.0}, 4.0)
    assert vq.reasons == ["64.0 bits, 16 are allowed"]  # links carry float32 numbers all the same
    assert bits_told([continuous]) == "coded bits per agent step"
    assert bits_told([continuous, vq]) == "coded bits per agent step (at the read-out: bits read)"


def test_who_plays_other_worlds_stands_beside_nobody_unless_it_is_asked_for(folder):
    read = untuned(folder)
    asked = {"within": {"vq": 1.0}, "hull": Hull(of=("continuous",), above=("vq",))}
    for setting, partners in (("easy", ["continuous", "silent", "upper hull of 1"]), ("medium", [])):
        for seed in (0, 1):
            write(read, "continuous", seed, success=0.97)
            write(read, "silent", seed, success=0.2)
            write(read, "vq", seed, success=0.97, setting=setting)
        for against in ({}, {"vq": ("silent",)}):
            study = replace(read, settings=read.settings.model_copy(update=asked | {"against": against}))
            vq = rows(study)[2]
            assert list(vq.against) == (partners or [*against.get("vq", ())])
            assert (vq.reached, vq.counts == "yes") == ((True, True) if partners else (None, False))
            told = "- Floor and ceiling of other worlds: vq from 0.200 to 1.000."
            assert (told in section(study, rows(study))) == (setting == "medium")


@pytest.mark.parametrize(
    ("settings", "doubt"),
    [
        ([], None),
        (
            ["channel.codebook_size=3"],
            "seed 1: trained with channel.codebook_size = 3, otherwise than the study says now",
        ),
        (["run.env_steps=80"], "seed 1: trained with run.env_steps = 80, otherwise than the study says now"),
        (["init_from=parent"], "seed 1: trained with init_from = 'parent', otherwise than the study says now"),
        (["resources.threads=1", "name=other"], None),
    ],
)
def test_what_was_trained_otherwise_is_no_evidence(folder, settings, doubt):
    five = STUDY.replace("[0, 1]", "[0, 1, 2, 3, 4]").replace("continuous: 2.0", "vq: 0.5")
    (folder / "study.yaml").write_text(five.partition("trials:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    for seed in range(5):
        write(study, "silent", seed, success=0.3 - 0.01 * seed)
        write(study, "vq", seed, settings=settings if seed == 1 else [], success=0.9 + 0.01 * seed)
    estimated = ahead(study, folder / "runs", ["vq"])[0].core_minutes
    assert estimated == 1  # that of a result of other settings tells nothing
    silent, vq = rows(study)
    comparison = vq.against["silent"]
    assert comparison.pairs == 5
    assert vq.doubts == ([] if doubt is None else [doubt])
    assert comparison.claim == ("higher" if doubt is None else None)
    assert comparison.withheld == ("" if doubt is None else "vq is no evidence")
    assert silent.doubts == []
    assert ("vq is no evidence" in vq.reasons) is (doubt is not None)
    verdict = "reached" if doubt is None else "no evidence"
    told = section(study, [silent, vq])
    assert f"vq: mean at least 0.5: **{verdict}**; its bits do not count: there is no continuous team" in told
    assert (f"no evidence: vq, {doubt}" in told) is (doubt is not None)


def test_a_failed_seed_is_told_and_nothing_is_claimed(folder):
    (folder / "study.yaml").write_text(STUDY.replace("[0, 1]", "[0, 1, 2, 3, 4, 5]").partition("trials:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    for seed in range(6):
        write(study, "silent", seed, success=0.3 - 0.01 * seed)
        if seed == 3:
            study.keep_failure("vq", 3, ConfigError("gradients are not finite"))
        else:
            write(study, "vq", seed, success=0.9 + 0.01 * seed)
    study.keep_failure("continuous", 0, ConfigError("no memory"))
    study.keep_failure("vq", 2, ConfigError("too late"))  # it has a result already
    write(study, "vq", 7, success=0.1)
    silent, vq = rows(study)
    assert vq.doubts == ["seed 3 failed: gradients are not finite"]
    assert vq.against["silent"].pairs == 5
    assert vq.against["silent"].claim is None
    told = section(study, [silent, vq])
    assert "no evidence: vq, seed 3 failed: gradients are not finite" in told
    assert "failed: continuous, seed 0: no memory" in told
    assert "of no team and seed of this study: vq-7.json" in told
    assert "Not run yet: continuous (seeds 1, 2, 3, 4, 5); continuous, 2 bits." in told


def test_what_was_trained_again_tells_why(folder):
    study = untuned(folder)
    write(study, "vq", 0, success=0.97)
    file = study.results / "vq-0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"failed_before": ["no memory"]}))
    assert "- vq, seed 0: trained again after: no memory" in section(study, rows(study))


def test_settings_that_came_later_were_the_defaults(folder):
    study = Study.read(folder / "study.yaml", folder / "results")
    then = trainings.experiment(trainings.config_data(study.config, study.recipes()["vq"])[0]).as_data()
    del then["policy"]["slot_bias"]
    assert study.strays("vq", [then]) == [{}]
    now = replace(study, settings=study.settings.model_copy(update={"changes": ("policy.slot_bias=true",)}))
    stray = {"policy.slot_bias": (False, True)}
    assert now.strays("vq", [then])[0].items() >= stray.items()


def test_what_is_wrong_with_a_training_is_wrong_with_what_came_of_it(folder):
    """A seed that failed, and an evaluation that the study now says otherwise."""
    text = STUDY.replace("[0, 1]", "[0, 1, 2, 3, 4, 5]").partition("trials:")[0]
    (folder / "study.yaml").write_text(text)
    study = Study.read(folder / "study.yaml", folder / "results")
    for seed in range(5):
        write(study, "continuous", seed, success=0.9 + 0.01 * seed)
        write(study, "continuous, 2 bits", seed, recipe="continuous", success=0.8)
    study.keep_failure("continuous", 5, ConfigError("no memory"))
    continuous, after = rows(study)
    assert continuous.doubts == after.doubts == ["seed 5 failed: no memory"]
    assert after.against["continuous"].claim is None
    (folder / "study.yaml").write_text(text.replace("channel.bits=2", "channel.bits=1"))
    after = rows(Study.read(folder / "study.yaml", folder / "results"))[1]
    assert len(after.doubts) == 6
    assert "seed 0: evaluated otherwise than by marlcomm evaluate runs/continuous-0" in after.doubts[0]


def test_what_a_team_began_with_was_trained_too(folder):
    study = Study.read(folder / "study.yaml", folder / "results")
    write(study, "vq", 0, success=0.9)
    (row,) = rows(study)
    parent = {"run": "parent", "checkpoint": "000001", "env_steps": 900, "core_seconds": 120.0}
    assert replace(row, summaries=[row.summaries[0] | {"init_from": parent}]).cost == (1000, 3)


def test_few_bits_are_judged_beside_the_numbers_of_their_own_recipe(folder):
    text = STUDY.partition("afterwards:")[0] + "numbers: {vq: silent}\nagainst: {vq: [continuous]}\n"
    (folder / "study.yaml").write_text(text)
    study = Study.read(folder / "study.yaml", folder / "results")
    for label, success in (("continuous", 0.9), ("silent", 0.8), ("vq", 0.79)):
        write(study, label, 0, success=success)
    vq = rows(study)[2]
    assert vq.reasons == []
    assert {label: round(found.difference.mean, 2) for label, found in vq.against.items()} == {
        "silent": -0.01,
        "continuous": -0.11,
    }


def test_teams_of_other_budgets_are_not_compared(folder):
    longer = STUDY.replace("[0, 1]", "[0, 1, 2, 3, 4]").replace("vq: [channel", "vq: [run.env_steps=200, channel")
    (folder / "study.yaml").write_text(longer.partition("trials:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    for seed in range(5):
        write(study, "continuous", seed, success=0.9)
        write(study, "vq", seed, success=0.9, env_steps=200)
    write(study, "silent", 0, success=0.2, env_steps=200)
    _, _, vq = rows(study)
    assert vq.doubts == []
    assert vq.reasons == ["trained for other env steps"]
    assert vq.against["continuous"].withheld == "trained for other env steps"


def begun(run_folder, arguments):
    """A run with a checkpoint, as ``marlcomm train`` with the arguments begins one."""
    words = [word for word in arguments if "=" in word]
    counters = {"env_steps": 40, "seconds": 10.0, "core_seconds": 30.0}
    checkpoint.write(run_folder / "checkpoints" / "000001", counters)
    config = next(folder / "small.yaml" for folder in run_folder.parents if (folder / "small.yaml").is_file())
    data = trainings.experiment(trainings.config_data(config, words)[0])
    (run_folder / "config.yaml").write_text(data.as_yaml())


def ended(run_folder, env_steps=160, name="000004", words=None):
    """Its training has come so far, and was evaluated there; it was begun by the words, if it was not before."""
    if words is not None:
        begun(run_folder, words)
    counters = {"env_steps": env_steps, "seconds": 40.0, "core_seconds": 90.0}
    checkpoint.write(run_folder / "checkpoints" / name, counters)
    summary = {
        "seed": 0,
        "command": "marlcomm train",
        "checkpoint": name,
        "core_seconds": 90,
        "evaluation/success": 0.5,
    }
    (run_folder / "summary.json").write_text(json.dumps(summary))


def test_the_picture_has_a_dot_and_a_curve_for_every_seed(folder, monkeypatch):
    study, drawn = Study.read(folder / "study.yaml", folder / "results"), []
    dots = {  # also of a seed that spends far more than the other
        "continuous": [(64.0, 0.97), (64.0, 0.99)],
        "silent": [(0.0, 0.25), (0.0, 0.22)],
        "vq": [(4.0, 0.93), (200.0, 0.95)],
    }
    curves = {}
    for label, seeds in dots.items():
        for seed, (bits, success) in enumerate(seeds):
            curves[label, seed] = [] if label == "silent" else [[1_000_000, success / 2], [2_000_000, success]]
            figures = {"success": success, "coded_bits_per_agent_step": bits}
            write(study, label, seed, curve=curves[label, seed], **figures)
    for seed in (0, 1):  # of other worlds, with another floor and ceiling
        write(study, "continuous, 2 bits", seed, recipe="continuous", setting="medium", success=0.3)
    found = rows(study)
    assert [row.label for row in found] == [*dots, "continuous, 2 bits"]
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_study(study, found, scale(study, found[0].summaries), folder / "picture.png")
    whole, learned = drawn[0].axes
    of_seeds, of_means = whole.collections[::2], whole.collections[1::2]
    assert [list(map(tuple, one.get_offsets())) for one in of_seeds] == list(dots.values())
    means = [np.mean(seeds, axis=0) for seeds in dots.values()]
    assert np.allclose([one.get_offsets()[0] for one in of_means], means)
    colours = [one.get_facecolor()[0, :3].tolist() for one in of_seeds]
    assert len({tuple(colour) for colour in colours}) == 3
    (left, right), (low, high) = whole.get_xlim(), whole.get_ylim()
    assert all(left <= bits <= right and low <= success <= high for seeds in dots.values() for bits, success in seeds)
    dotted = [
        [line.get_ydata()[0] for line in panel.lines if line.get_linestyle() == ":"] for panel in (whole, learned)
    ]
    assert dotted == [[0.875], [0.875]]  # what is known
    lines = [line.get_xydata().tolist() for line in learned.lines if line.get_color().startswith("C")]
    assert lines == [[[steps / 1e6, success] for steps, success in curve] for curve in curves.values() if curve]


def test_teams_held_against_a_hull_are_shown_near_it(folder, monkeypatch):
    study, drawn = Study.read(folder / "study.yaml", folder / "results"), []
    for label, bits, success in (("silent", 1.0, 0.5), ("continuous", 3.0, 0.9), ("vq", 4.0, 0.8)):
        for seed, luck in enumerate((-0.02, 0.02)):
            write(study, label, seed, success=success + luck, coded_bits_per_agent_step=bits)
    hull = Hull(of=("silent", "continuous"), above=("vq",))
    study = Study(study.name, study.settings.model_copy(update={"hull": hull}), study.config, study.results)
    found = rows(study)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_study(study, found, scale(study, found[0].summaries), folder / "picture.png")
    _, near = drawn[0].axes
    (line,) = near.lines
    bits, heights = line.get_data()
    assert np.allclose(heights, np.minimum(0.5 + 0.2 * (bits - 1), 0.9))
    assert (near.get_xlim(), near.get_ylim()) == (pytest.approx((0, 4.4)), pytest.approx((0.766, 0.934)))
    draw_study(
        study, [row for row in found if row.label != "silent"], scale(study, found[0].summaries), folder / "b.png"
    )
    assert len(drawn[1].axes) == 1  # nobody knows the hull


def test_a_team_that_another_study_trains_is_not_trained_again(folder, trainings_here):
    other = "title: Other\nconfig: small.yaml\nseeds: [0, 1]\nchanges: [run.env_steps=160]\n"
    other += "teams: {numbers: [channel.name=continuous], vq: [channel.name=vq]}\nsame_as: {numbers: SAME}\n"

    def read(same):
        (folder / "other.yaml").write_text(other.replace("SAME", same))
        return Study.read(folder / "other.yaml", folder / "results")

    untuned = STUDY.partition("tuning_seeds")[0]
    (folder / "study.yaml").write_text(untuned)
    (folder / "tuned.yaml").write_text(STUDY)
    (folder / "fewer.yaml").write_text(untuned.replace("seeds: [0, 1]", "seeds: [0]"))
    (folder / "returns.yaml").write_text(f"{untuned}metric: return\n")
    study = Study.read(folder / "study.yaml", folder / "results")
    for seed in (0, 1):
        write(study, "continuous", seed, success=0.9)
    (row,) = rows(read("study/continuous"))
    assert (row.label, row.by_seed, row.doubts) == ("numbers", {0: 0.9, 1: 0.9}, [])
    write(study, "continuous", 1, ["policy.width=16"], success=0.9)
    (row,) = rows(read("study/continuous"))
    assert row.doubts == ["seed 1: trained with policy.width = 16, otherwise than the study says now"]
    assert {(one.label, one.seed) for one in ahead(read("study/continuous"), folder / "runs")} == {("vq", 0), ("vq", 1)}
    done = trainings_here("study", "run", "other.yaml", "--team", "numbers", cwd=folder, code=2)
    assert "other: 'numbers' is trained by study 'study' as 'continuous'" in " ".join(done.stderr.split())
    for same, words in (
        ("study/continous", "study trains no team 'continous'; did you mean 'continuous'"),
        ("other/vq", "wanted STUDY/LABEL of another study"),
        ("tuned/vq", "other.same_as.numbers: tuned has trials"),
        ("fewer/vq", r"fewer has no seed 1, wanted seeds among \[0\]"),
        ("returns/vq", "returns has curves of return, wanted metric 'success'"),
        ("stud/vq", "got 'stud/vq', wanted STUDY/LABEL of another study"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(same)
    for more, words in (
        (
            "afterwards: {x: {of: numbers, changes: []}}\n",
            "'numbers' is trained by study/continuous: evaluate it there",
        ),
        ("trials: {vq: [[]], numbers: [[]]}\n", "a study with trials trains all its teams"),
    ):
        (folder / "other.yaml").write_text(other.replace("SAME", "study/continuous") + more)
        with pytest.raises(ConfigError, match=words):
            Study.read(folder / "other.yaml", folder / "results")


def test_an_interrupted_study_goes_on(folder, monkeypatch):
    """A training that has a checkpoint and no summary is resumed, one with a summary left alone."""
    commands = []

    def pretend(*arguments):
        commands.append(arguments[:3])
        if arguments[0] == "train" and "--resume" not in arguments:
            name = next(word for word in arguments if word.startswith("name="))[5:]
            begun(folder / "runs" / "study" / name / "now", arguments)
            raise ConfigError("stopped in the middle")
        ended(next(folder.glob("runs/study/*/now")))

    monkeypatch.setattr(trainings, "run", pretend)
    (folder / "study.yaml").write_text(STUDY.partition("trials:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    with pytest.raises(ConfigError, match="stopped in the middle"):
        run(study, folder / "runs", 1, ["silent"], [0])
    assert ahead(study, folder / "runs", ["silent"], [0]) == [("silent", 0, 0.25, 1.5)]  # a quarter took 30 seconds
    run(study, folder / "runs", 1, ["silent"], [0])
    run(study, folder / "runs", 1, ["silent"], [0])
    assert [command[1] for command in commands] == [str(folder / "small.yaml"), "--resume"]
    assert ahead(study, folder / "runs", ["silent"]) == [("silent", 0, 1.0, 0.0), ("silent", 1, 0.0, 1.5)]
    assert (folder / "results/study/silent-0.json").is_file()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("most_bits: 16", "most_bit: 16", "study.most_bit: unknown key"),
        ("config: small.yaml", "config: smal.yaml", "study.config: no file .*; did you mean '.*/small.yaml'"),
        ("  silent: ", "  silent: [", "study: .*study.yaml' is not YAML"),
        ("reach: {continuous: 2.0}", "reach: {continous: 2.0}", "did you mean 'continuous'"),
        ("tuning_seeds: [1000]", "tuning_seeds: [1]", r"tuning_seeds: \[1\] are seeds of results too"),
        ("[channel.codebook_size=4], ", "", "equally many trials"),
        ("of: continuous", "of: gumbel", "no team 'gumbel'"),
        ("reach:", "numbers: {vq: float32}\nreach:", "numbers: no team 'float32'"),
        ("reach:", "against: {vq: [vp]}\nreach:", "against: no team 'vp'; did you mean 'vq'"),
        ("  silent: ", "  vq!: [channel.name=vq]\n  vq.: ", "'vq!' and 'vq.' would share their files"),
        ("  silent: ", "  ddcl: [channel.name=ddcl]\n  silent: ", "trials: none of ddcl; wanted equally many"),
    ],
)
def test_what_is_wrong_with_a_study_is_named(folder, before, after, words):
    (folder / "study.yaml").write_text(STUDY.replace(before, after))
    with pytest.raises(ConfigError, match=words):
        Study.read(folder / "study.yaml", folder / "results")


def test_what_is_asked_of_a_study_must_be_in_it(folder):
    study = Study.read(folder / "study.yaml", folder / "results")
    study.keep_trials([{"team": label, "changes": [], "by_seed": {}, "chosen": True} for label in ("vq", "continuous")])
    with pytest.raises(ConfigError, match="no team 'vp'; did you mean 'vq'"):
        run(study, folder / "runs", 1, ["vp"])
    with pytest.raises(ConfigError, match=r"study.seeds: got 7, wanted one of \[0, 1\]"):
        run(study, folder / "runs", 1, ["vq"], [7])
    with pytest.raises(ConfigError, match=r"no file '.*none\.yaml'; did you mean '.*study.yaml'"):
        tune(Study.read(folder / "none.yaml", folder), folder, 1)


def test_what_is_wrong_with_a_team_is_told_before_any_is_trained(folder, monkeypatch):
    monkeypatch.setattr(trainings, "run", None)
    text = STUDY.partition("afterwards:")[0].replace("vq: [channel.name=vq]", "vq: [channel.name=vq, channel.sise=4]")
    (folder / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"vq: channel\.sise: unknown key"):
        run(Study.read(folder / "study.yaml", folder / "results"), folder / "runs", 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("chanel.bits=2", "got 'chanel.bits=2', wanted channel.KEY=VALUE or env.KEY=VALUE"),
        ("channel.bit=2", r"channel\.bit: unknown key"),
        ("algorithm.lr=1", "all else is as it was trained"),
    ],
)
def test_what_is_wrong_with_an_evaluation_is_told_before_any_training(folder, monkeypatch, change, words):
    monkeypatch.setattr(trainings, "run", None)
    (folder / "study.yaml").write_text(STUDY.partition("tuning_seeds")[0].replace("channel.bits=2", change))
    with pytest.raises(ConfigError, match=f"continuous, 2 bits: .*{words}"):
        run(Study.read(folder / "study.yaml", folder / "results"), folder / "runs", 1)


def test_an_evaluation_under_another_channel_drops_what_the_team_had_set(folder):
    text = STUDY.partition("tuning_seeds")[0].replace(
        "vq: [channel.name=vq]", "vq: [channel.name=vq, channel.segments=2]"
    )
    (folder / "study.yaml").write_text(text.replace("of: continuous, changes: [", "of: vq, changes: ["))
    assert len(ahead(Study.read(folder / "study.yaml", folder / "results"), folder / "runs")) == 6


def test_a_trial_that_fails_is_told_of_and_not_chosen(folder, monkeypatch):
    def pretend(*arguments):
        name = next(word for word in arguments if word.startswith("name="))[5:]
        if name in failing:
            raise ConfigError(f"{name} diverged")
        ended(folder / "runs" / "study" / "tuning" / name / "now", words=arguments)

    monkeypatch.setattr(trainings, "run", pretend)
    study = Study.read(folder / "study.yaml", folder / "results")
    failing = {"vq_0-1000"}
    trials = tune(study, folder / "runs", 1)
    assert [trial["chosen"] for trial in trials] == [False, True, True, False]
    assert (trials[0]["failed"], trials[0]["by_seed"]) == ("vq_0-1000 diverged", {})
    assert "| vq | `channel.codebook_size=4` |  | vq_0-1000 diverged |" in section(study, [])
    shutil.rmtree(folder / "runs")
    failing |= {"vq_1-1000"}
    with pytest.raises(ConfigError, match="trials: all of vq failed: vq_0-1000 diverged"):
        tune(study, folder / "runs", 1)


def test_without_settings_to_choose_from_nothing_is_tuned_or_stored(folder):
    (folder / "study.yaml").write_text(STUDY.partition("tuning_seeds")[0])
    with pytest.raises(ConfigError, match=r"study\.trials: there are none"):
        tune(Study.read(folder / "study.yaml", folder / "results"), folder / "runs", 1)
    assert not (folder / "results").exists()


def test_a_world_without_a_ceiling_is_reported_and_judges_no_bits(folder):
    study = untuned(folder)
    for label in ("continuous", "silent", "vq"):
        write(study, label, 0, success=0.97)
        file = study.results / f"{label}-0.json"
        summary = json.loads(file.read_text())
        kept = {key: value for key, value in summary.items() if not key.startswith("ceiling")}
        file.write_text(json.dumps(kept))
    found = rows(study)
    assert [row.counts for row in found] == ["", "", "no ceiling to judge it by"]
    write_page([(study, found)], folder / "docs" / "results.md", "marlcomm")
    page = (folder / "docs" / "results.md").read_text()
    assert "| *always gas* | 0.200 |" in page
    assert "scheduler" not in page


def test_few_bits_are_judged_by_common_seeds(folder):
    study = untuned(folder)
    for label, seed, success in (("vq", 0, 0.99), ("vq", 1, 0.5), ("continuous", 1, 0.7), ("silent", 0, 0.2)):
        write(study, label, seed, success=success)
    assert rows(study)[2].reasons == ["0.2 worse than continuous, 0.02 is allowed"]


def test_nobody_is_close_to_who_is_not_there_or_no_evidence(folder):
    study = untuned(folder)
    asked = study.settings.model_copy(update={"within": {"vq": 0.02}, "reach": {}})
    study = Study(study.name, asked, study.config, study.results)
    wanted = "vq: mean not worse than that of continuous by more than 0.02: "
    for seed in (0, 1):
        write(study, "vq", seed, success=0.97)
    assert rows(study)[0].reached is None
    assert f"{wanted}**not to be told yet**" in section(study, rows(study))
    missed = Study(study.name, asked.model_copy(update={"worst": {"vq": 0.99}}), study.config, study.results)
    assert rows(missed)[0].reached is False
    write(study, "continuous", 1, success=0.97)
    assert f"{wanted}**reached** so far, by 1 of 2 seeds" in section(study, rows(study))
    write(study, "continuous", 1, settings=["algorithm.lr=0.5"], success=0.97)
    assert f"{wanted}**no evidence**" in section(study, rows(study))


def test_what_fails_is_told_after_the_others(folder, monkeypatch):
    done, failing = [], ["vq-0"]

    def fails_for_vq(*arguments):
        name = next(word for word in arguments if word.startswith("name="))[5:]
        done.append(name)
        if name in failing:
            raise ConfigError("vq-0 failed")
        begun(folder / "runs" / "study" / name / "now", arguments)
        ended(folder / "runs" / "study" / name / "now")

    monkeypatch.setattr(trainings, "run", fails_for_vq)
    (folder / "study.yaml").write_text(STUDY.partition("afterwards:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    with pytest.raises(ConfigError, match="vq-0 failed"):
        run(study, folder / "runs", 2, seeds=[0])
    assert sorted(done) == ["continuous-0", "silent-0", "vq-0"]
    assert sorted(file.name for file in study.results.iterdir()) == [f"{name}.json" for name in sorted(done)]
    assert study.failures() == {"vq": {0: "vq-0 failed"}}
    assert list(study.evaluations()) == ["continuous", "silent"]
    failing.clear()
    run(study, folder / "runs", 1, seeds=[0])
    assert study.failures() == {}
    assert json.loads((study.results / "vq-0.json").read_text())["failed_before"] == ["vq-0 failed"]


def test_the_result_is_that_of_the_run_that_was_checked(folder, monkeypatch):
    """An older run of other settings has a summary; the newest, which is as the study says, has not ended."""
    words = ["run.env_steps=160", "channel.name=silent", "name=silent-0", "resources.threads=1", "resources.num_cpus=1"]
    for stamp, lr in (("1", 0.5), ("2", 1e-3)):
        run_folder = folder / "runs" / "study" / "silent-0" / stamp
        begun(run_folder, [*words, f"algorithm.lr={lr}"])
    (folder / "runs" / "study" / "silent-0" / "1" / "summary.json").write_text("{}")
    commands = []

    def resume(*arguments):
        commands.append(arguments)
        ended(run_folder)

    monkeypatch.setattr(trainings, "run", resume)
    (folder / "study.yaml").write_text(STUDY.partition("trials:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    run(study, folder / "runs", 1, ["silent"], [0])
    assert commands == [("train", "--resume", str(run_folder))]
    assert study.evaluations()["silent"][0]["settings"]["algorithm"]["lr"] == 1e-3


@pytest.mark.parametrize("looked_at", [40, 160], ids=["in the middle", "before it was prolonged"])
def test_a_training_that_was_looked_at_goes_on(folder, monkeypatch, looked_at):
    """A summary of an earlier checkpoint, or of a training that is not over, is not the result."""
    words = ["run.env_steps=160", "channel.name=silent", "name=silent-0", "resources.threads=1", "resources.num_cpus=1"]
    run_folder = folder / "runs" / "study" / "silent-0" / "1"
    begun(run_folder, words)
    ended(run_folder, looked_at)
    if looked_at == 160:
        later = run_folder / "checkpoints" / "000005"
        checkpoint.write(later, {"env_steps": 200, "seconds": 50.0, "core_seconds": 110.0})
    commands = []

    def resume(*arguments):
        commands.append(arguments)
        ended(run_folder, name="000006")

    monkeypatch.setattr(trainings, "run", resume)
    (folder / "study.yaml").write_text(STUDY.partition("trials:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    assert ahead(study, folder / "runs", ["silent"], [0])[0].over < 1
    run(study, folder / "runs", 1, ["silent"], [0])
    assert commands == [("train", "--resume", str(run_folder))]
    assert ahead(study, folder / "runs", ["silent"], [0])[0].over == 1


CHILD = """
import pathlib, time
pathlib.Path("begun").touch()
try:
    time.sleep(100)
except KeyboardInterrupt:
    time.sleep(0.5)  # a second signal would end it here
    pathlib.Path("saved").touch()
"""
PARENT = """
import signal, sys
from marlcomm import checkpoint
from marlcomm.analysis import trainings
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell are deaf to it
trainings.PROGRAM = (sys.executable, "child.py")
trainings.each(lambda case: trainings.run(), [("first", 0), ("second", 0)], jobs={jobs})
"""


@pytest.mark.parametrize("code", [130, 143])
def test_what_was_stopped_has_not_failed(folder, monkeypatch, code):
    """Whoever stops a training by a signal of its own stops the study, and no file says that the seed failed."""
    (folder / "study.yaml").write_text(STUDY.partition("trials:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    began = folder / "began"
    child = f"open({str(began)!r}, 'a').write('one '); raise SystemExit({code})"
    monkeypatch.setattr(trainings, "PROGRAM", (sys.executable, "-c", child))
    with pytest.raises(KeyboardInterrupt):
        run(study, folder / "runs", 1, ["silent", "vq"], [0, 1])
    assert began.read_text() == "one "
    assert not list((folder / "results").glob("*.json"))


def test_what_failed_tells_its_last_words_once(monkeypatch):
    monkeypatch.setattr(trainings, "PROGRAM", (sys.executable, "-c", "raise SystemExit('error: one\\nerror: two')"))
    with pytest.raises(ConfigError, match=r"failed:\none\ntwo$"):
        trainings.run("train")


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_lets_trainings_save(tmp_path, jobs):
    """The whole group is told, as by a terminal; each training is told once, and nothing else begins."""
    (tmp_path / "child.py").write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(jobs=jobs)], cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for((tmp_path / "begun").exists, process)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert (tmp_path / "saved").exists()


def test_a_second_ctrl_c_stops_trainings_at_once(tmp_path):
    slow = CHILD.replace("sleep(0.5)  # a second signal would end it here", "sleep(100)")
    (tmp_path / "child.py").write_text(slow)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(jobs=2)], cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for((tmp_path / "begun").exists, process)
    for _ in range(2):
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not (tmp_path / "saved").exists()


def test_a_dry_run_of_a_study_trains_nothing(folder, here, monkeypatch):
    monkeypatch.setattr(trainings, "run", None)
    (folder / "study.yaml").write_text(STUDY.partition("trials:")[0])
    study = Study.read(folder / "study.yaml", folder / "results")
    write(study, "vq", 0, success=0.5)
    told = here("study", "run", "study.yaml", "--seed", 1, "--dry-run", cwd=folder).stdout
    assert "3 of 3 trainings ahead: 1 core-minutes, 0 minutes with --jobs 2, and 2 of unknown length" in told


def test_who_stops_a_study_is_told_how_to_go_on(folder, here, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainings, "run", stopped)
    (folder / "study.yaml").write_text(STUDY.partition("trials:")[0])
    said = here("study", "run", "study.yaml", "--jobs", 1, cwd=folder, code=130).stdout
    assert "stopped and saved; continue with" in said
    assert "study run study.yaml --jobs 1" in said
