"""Sweeps: what lists and ranges stand for, trials side by side on Tune, and going on where they were."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from marlcomm.cli import sweeping
from marlcomm.registry import ConfigError
from marlcomm.sweeps.folder import Sweep, check
from marlcomm.sweeps.settings import SweepSettings, label, points, space, values

TEXT = """
name: tiny
imports: [tiny_world]
env: {name: relay}
policy: {hidden_size: 8, message_size: 4}
run: {worlds: 32, env_steps: 768, evaluate_every: 2, evaluation_worlds: 8, checkpoint_every: 2}
evaluation: {episodes: 8, code_episodes: 8}
"""
TINY = yaml.safe_load(TEXT)


def settings(swept, **more):
    return SweepSettings(**({"command": ("sweep",), "config": TINY, "swept": swept, "jobs": 2} | more))


@pytest.fixture
def trial(cluster):
    from marlcomm.sweeps.trial import Trial

    return Trial


# --- what is tried ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.1,0.2", ["0.1", "0.2"]),
        ("0..3", ["0", "1", "2", "3"]),
        ("-1..1,7,7", ["-1", "0", "1", "7"]),
        ("[1,2],[3,4]", ["[1,2]", "[3,4]"]),
        ("[[0,1e-3],[9,0]]", ["[[0,1e-3],[9,0]]"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("{a: [1,2]},null", ["{a: [1,2]}", "null"]),
    ],
)
def test_lists_and_ranges_stand_for_values(text, wanted):
    assert values(text) == wanted


def test_a_grid_is_every_combination_once():
    grid = points({"channel.delta": "0.1,0.2", "seed": "0..2"})
    assert len(grid) == len({label(point) for point in grid}) == 6
    assert grid[1] == {"channel.delta": "0.1", "seed": "1"}


def test_a_search_has_ranges_of_whole_and_other_numbers():
    found = space({"channel.delta": "0.05..0.5", "algorithm.lr": "log:1e-4..1e-2", "worlds": "1..8", "gate": "a,b"})
    assert (found["channel.delta"].low, found["channel.delta"].high, found["channel.delta"].log) == (0.05, 0.5, False)
    assert found["algorithm.lr"].log
    assert isinstance(found["worlds"].high, int)
    assert found["gate"] == ["a", "b"]


def test_names_of_trials_are_folders_and_differ():
    assert label({"channel.delta": 0.1, "seed": 2}) == "channel.delta-0.1_seed-2"
    lists = [{"algorithm.lr": text} for text in ("[[0,1],[2,3]]", "[[0,1,2],[3]]", "x" * 300, "x" * 301)]
    assert len({label(point) for point in lists}) == 4
    assert max(map(len, map(label, lists))) < 120


@pytest.mark.parametrize(
    ("swept", "more", "words"),
    [
        ({"channel.delt": "1,2"}, {}, "channel.delt: unknown key"),
        ({"channel.delta": "1,-2"}, {}, "channel.delta: got -2"),
        ({"channel.delta": "0.1..0.2"}, {}, "a range that only a search can try"),
        ({"channel.delta": "log:0..0.2"}, {"search": "optuna"}, "wanted a range that rises, from above 0"),
        ({"channel.delta": "-1..0.2"}, {"search": "optuna"}, "channel.delta: got -1"),
        ({"channel.name": "vq,dvq"}, {"changes": ("channel.segment=2",)}, "did you mean 'segments'"),
        ({"seed": "3..0"}, {}, "wanted a range that rises, as in 0..3"),
        ({"seed": "0,,1"}, {}, "wanted values between commas"),
        ({"seed": "0..100000000"}, {}, "wanted at most 10,000 values"),
        (
            {"seed": "0..999", "channel.delta": "1,2,3,4,5,6,7,8,9,10,11"},
            {},
            "got 11,000 combinations of seed, channel",
        ),
        ({"seed": "0,1"}, {"scheduler": "asha", "metric": "train/succes"}, "did you mean 'train/success'"),
        ({"run.evaluate_every": "null,2"}, {"scheduler": "asha"}, "run.evaluate_every is null"),
        ({"seed": "0,1"}, {"config": TINY | {"name": "../out"}}, "name: got '../out', wanted a letter or digit"),
        ({"seed": "0,1"}, {"config": TINY | {"name": 5}}, "name: got 5"),
        ({"resources.num_env_runners": "0,2"}, {}, "resources.num_env_runners=2 asks for others: sweep them apart"),
    ],
)
def test_wrong_sweeps_are_refused_before_anything_starts(swept, more, words):
    with pytest.raises(ConfigError) as refused:
        check(settings(swept, **more))
    assert words in str(refused.value)


def test_a_sweep_is_named_on_the_command_line_too(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TEXT)
    asked, _ = sweeping._settings(tmp_path / "tiny.yaml", ["seed=0,1", "name=mine"], [], 1, {})
    assert asked.config["name"] == "mine"


def test_code_of_a_sweep_that_others_made_needs_a_word(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    made = Sweep.create(settings({"seed": "0,1"}), tmp_path)
    assert Sweep.open(made.folder, 3).settings.jobs == 3
    asked = yaml.safe_load((made.folder / "sweep.yaml").read_text())
    (made.folder / "sweep.yaml").write_text(yaml.safe_dump(asked | {"swept": {"imports": "[os],[sys]"}}))
    with pytest.raises(ConfigError, match=r"names code that is not marlcomm's: tiny_world, os, sys; .*--trust"):
        Sweep.open(made.folder)
    parts = ["env.kwargs.l=[os]", "imports=${oc.select:env.kwargs.l,null}"]
    (made.folder / "sweep.yaml").write_text(yaml.safe_dump(asked | {"config": {}, "changes": parts}))
    with pytest.raises(ConfigError, match=r"not marlcomm's: \$\{\.\.\.\}; "):
        Sweep.open(made.folder)
    (made.folder / "sweep.yaml").write_text(yaml.safe_dump(asked))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    with pytest.raises(ConfigError, match="was not made by you here"):
        Sweep.open(made.folder)
    assert Sweep.open(made.folder, trusted=True).settings == made.settings


def test_a_search_over_a_wide_range_is_opened_again(tmp_path):
    made = Sweep.create(settings({"algorithm.learning_starts": "1000..50000"}, search="optuna"), tmp_path)
    assert Sweep.open(made.folder).settings == made.settings


def test_what_is_no_sweep_is_told(here, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TEXT)
    assert "wanted values to try" in here("sweep", "tiny.yaml", "seed=1", cwd=tmp_path, code=2).stderr
    assert (
        "wanted 'none' or 'asha'"
        in here("sweep", "tiny.yaml", "seed=0,1", "--scheduler", "ash", cwd=tmp_path, code=2).stderr
    )
    assert "no sweep in 'tiny.yaml'" in here("sweep", "--resume", "tiny.yaml", cwd=tmp_path, code=2).stderr
    assert "--resume takes a sweep" in here("sweep", "--resume", "x", "--grace", 3, cwd=tmp_path, code=2).stderr
    assert not (tmp_path / "runs").exists()


# --- a trial ----------------------------------------------------------------------------------------------------------


def weights(run):
    return load_file(run.last_checkpoint() / "weights.safetensors")


def all_steps(trial):
    reports = [trial.step()]
    while not reports[-1].get("done"):
        reports.append(trial.step())
    trial.stop()
    return reports


def test_a_trial_that_was_stopped_goes_on_exactly_and_tells_its_past_anew(tmp_path, trial):
    asked = settings({"seed": "0,1"}, scheduler="asha", grace=1)
    whole, parted = (Sweep.create(asked, tmp_path / name) for name in ("whole", "parted"))
    reports = all_steps(trial(whole, {"seed": "0"}))
    assert [report["env_steps"] for report in reports] == [256, 384, 512, 640, 768, 768]  # from the first evaluation on

    first = trial(parted, {"seed": "0"})
    assert first.step()["env_steps"] == 256
    first.step()
    first.stop()
    assert parted.trial({"seed": "0"}).status() == ("interrupted", "")
    again = all_steps(trial(parted, {"seed": "0"}))

    def without_times(reports):
        return [{tag: value for tag, value in one.items() if not tag.startswith("time/")} for one in reports]

    assert without_times(again) == [
        one | {"round": two["round"]} for one, two in zip(without_times(reports), again, strict=True)
    ]
    runs = [one.trial({"seed": "0"}).run() for one in (whole, parted)]
    assert all(np.array_equal(weights(runs[0])[name], value) for name, value in weights(runs[1]).items())
    assert [one.trial({"seed": "0"}).status()[0] for one in (whole, parted)] == ["finished", "finished"]
    # What is over is only told: nothing is built.
    assert all_steps(trial(parted, {"seed": "0"}))[-1]["over"]


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_a_sweep_trains_side_by_side_loses_no_failure_and_goes_on(tmp_path, trains_here):
    (tmp_path / "tiny.yaml").write_text(TEXT)
    # With the second learning rate no gradient is finite: that trial fails, and the other one does not mind.
    said = trains_here("sweep", "tiny.yaml", "algorithm.lr=0.001,1e30", "--jobs", 2, cwd=tmp_path, code=1)
    assert "2 of 2 trials to train" in said.stdout
    assert "failed: algorithm.lr=1e30: " in said.stderr
    (folder,) = (tmp_path / "runs" / "tiny").glob("sweep_*")
    good, bad = csv.DictReader((folder / "results.csv").open())
    assert (good["algorithm.lr"], good["status"], good["env_steps"]) == ("0.001", "finished", "768")
    assert (bad["algorithm.lr"], bad["status"], bad["success"]) == ("1e30", "failed", "")
    assert "Error: " in bad["reason"]  # the last line of its traceback
    summary = Path(good["run"]) / "summary.json"
    assert float(good["success"]) == json.loads(summary.read_text())["evaluation/success"]
    assert f"{float(good['return']):.2f}" in said.stdout
    assert not list(folder.rglob("*.pkl"))

    written = summary.stat().st_mtime_ns
    said = trains_here("sweep", "--resume", folder, cwd=tmp_path, code=1)
    assert "1 of 2 trials to train" in said.stdout
    assert summary.stat().st_mtime_ns == written
    assert next(csv.DictReader((folder / "results.csv").open())) == good


def test_optuna_suggests_within_ranges_and_goes_on_with_what_was_tried():
    pytest.importorskip("optuna")
    from marlcomm.rllib.tuning import Search

    ranges = space({"channel.delta": "0.05..0.5", "algorithm.lr": "log:1e-4..1e-2", "policy.hidden_size": "[8],[16]"})
    tried = [({"channel.delta": 0.1, "algorithm.lr": 1e-3, "policy.hidden_size": "[8]"}, 0.5)]
    begun = [{"channel.delta": 0.3, "algorithm.lr": 2e-3, "policy.hidden_size": "[16]"}]
    search = Search(ranges, "train/return", "max", seed=3, trials=5, over=len(tried), tried=tried, begun=begun)
    assert search.samples == 4
    searcher = search.searcher()
    suggested = [searcher.suggest(str(number))["settings"] for number in range(4)]
    assert suggested[0] == begun[0]
    assert all(0.05 <= one["channel.delta"] <= 0.5 and 1e-4 <= one["algorithm.lr"] <= 1e-2 for one in suggested)
    again = search.searcher()  # a search is as random as its seed
    assert suggested == [again.suggest(str(number))["settings"] for number in range(4)]
