"""Run folders: what may change when a run goes on, what is told of it, and whose code a folder may have loaded."""

import json
import os
import re
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from marlcomm import checkpoint, runs, training, trust
from marlcomm.analysis.evidence import shortcomings
from marlcomm.changes import MAY_CHANGE, differences, of_training
from marlcomm.config import experiment
from marlcomm.disk import DiskError
from marlcomm.registry import ConfigError
from marlcomm.runs import Run

SUMMARY = {"episodes": 2000, "stream": "evaluation", "trained": 1.0}


@pytest.fixture
def make(tmp_path):
    """A run with a checkpoint, as it would be after training."""

    def start(data=None, **changes):
        plan = experiment((data or {}) | changes)
        run = Run.create(plan, tmp_path / "runs", ["train", "x.yaml"])
        checkpoint.write(run.checkpoint(3), {"round": 3}, plan.as_data())
        return run

    return start


def edit(run, old, new):
    file = run.folder / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


# --- going on with other settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["run.env_steps=2000000", "run.minutes=5", "run.evaluate_every=null", "run.checkpoint_minutes=1"],
        ["resources.num_env_runners=2", "resources.threads=1", "evaluation.episodes=10", "name=other"],
        ["imports=[tiny_world]"],
    ],
)
def test_what_only_prolongs_a_run_or_moves_it_may_change(make, words):
    run = make()
    changes = run.changes(run.resumed(words))
    assert changes.keys() == {word.partition("=")[0] for word in words}
    assert of_training(changes) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1"], "seed: 0 -> 1"),
        (["run.worlds=64", "channel.delta=0.5"], "run.worlds: 128 -> 64"),
        (["channel.name=vq", "channel.segments=2"], "channel.name: 'ddcl' -> 'vq';"),
        (["algorithm.lr=1e-4", "run.env_steps=5"], "algorithm.lr: 0.001 -> 0.0001; --force"),
        (["env.curriculum={}", "env.add_rate=0.4"], "env.curriculum: None -> {"),
    ],
)
def test_what_is_learned_may_not_change_unless_by_force(make, words, said):
    run = make()
    with pytest.raises(ConfigError, match=re.escape(said)):
        run.resumed(words)
    assert run.resumed(words, force=True) != run.experiment()


def test_what_may_change_is_what_there_is():
    """Every key of the table is one of a config, and everything outside it is of the training."""
    data = experiment({}).as_data()
    for key in MAY_CHANGE:
        group, _, name = key.partition(".")
        assert name in data[group] if name else key in data
    kept = {key for key in data["run"] if f"run.{key}" not in MAY_CHANGE}
    assert kept == {"worlds", "sampling"}
    assert not {"env", "policy", "channel", "algorithm", "seed", "run"} & MAY_CHANGE.keys()


def test_what_a_run_began_with_is_read_once(make):
    with pytest.raises(ConfigError, match="init_from: got 'elsewhere', wanted None: it is read once"):
        make().resumed(["init_from=elsewhere"], force=True)


def test_changes_become_the_runs_with_its_next_checkpoint(make):
    run = make()
    words = ["channel.delta=0.5", "run.env_steps=2000000"]
    settings = run.resumed(words, force=True)
    assert run.experiment().channel.settings.delta == 0.25  # nothing has been trained with it yet
    run.keep_changes(settings, ["train", "--resume", "x", *words, "--force"])
    checkpoint.write(run.checkpoint(5), {"round": 5}, settings.as_data())
    assert run.experiment() == settings
    assert not run.is_told_otherwise(settings)
    (session,) = run.origin()["resumed"]
    assert session == {
        "command": "marlcomm train --resume x channel.delta=0.5 run.env_steps=2000000 --force",
        "round": 3,
        "changes": {"channel.delta": [0.25, 0.5], "run.env_steps": [1_000_000, 2_000_000]},
        "forced": ["channel.delta"],
        "moved": {},
    }
    assert run.origin()["command"] == "marlcomm train x.yaml"
    assert shortcomings(SUMMARY | run.origin()) == ["from round 3 on it was trained with another channel.delta"]
    assert shortcomings(SUMMARY) == []


def test_what_was_forced_stays_told_where_no_checkpoint_came_of_it(make):
    """Killed between telling and saving: the run goes on with either, and tells of what it went on with."""
    run = make()
    forced = run.resumed(["channel.delta=0.5"], force=True)
    run.keep_changes(forced, ["train", "--force"])
    assert run.experiment() == run.resumed() == forced
    assert shortcomings(SUMMARY | run.origin()) == ["from round 3 on it was trained with another channel.delta"]
    assert run.is_told_otherwise(forced)  # by another command, and so anew
    run.keep_changes(forced, ["train", "--again"])
    (session,) = run.origin()["resumed"]
    assert (session["command"], session["forced"]) == ("marlcomm train --again", ["channel.delta"])
    as_before = run.resumed(["channel.delta=0.25"])
    run.keep_changes(as_before, ["train"])
    assert "resumed" not in run.origin()
    assert run.experiment() == as_before


def test_what_goes_on_elsewhere_says_so(make, monkeypatch):
    """Another torch or machine counts from the next checkpoint on; a training killed before one leaves no trace."""
    run = make()
    settings = run.resumed()
    assert not run.is_told_otherwise(settings)
    first = runs.here(settings)
    (began,) = runs.sessions(run.origin())
    assert began == first
    second = {"versions": first["versions"] | {"torch": "9.9"}, "machine": first["machine"] | {"cores": 999}}
    monkeypatch.setattr(runs, "here", lambda settings: second)
    moved = {"versions.torch": (first["versions"]["torch"], "9.9"), "machine.cores": (first["machine"]["cores"], 999)}
    assert run.moved(settings) == moved
    assert run.is_told_otherwise(settings)
    run.keep_changes(settings, ["train", "--resume", "x"])
    monkeypatch.setattr(runs, "here", lambda settings: first)
    run.keep_changes(settings, ["train"])
    assert "resumed" not in run.origin()
    monkeypatch.setattr(runs, "here", lambda settings: second)
    run.keep_changes(settings, ["train", "--resume", "x"])
    checkpoint.write(run.checkpoint(5), {"round": 5}, settings.as_data())
    assert not run.is_told_otherwise(settings)
    assert runs.sessions(run.origin()) == [first, second]
    (session,) = run.origin()["resumed"]
    assert (session["changes"], session["moved"]) == ({}, {key: list(values) for key, values in moved.items()})
    assert shortcomings(SUMMARY | run.origin()) == []
    monkeypatch.setattr(runs, "here", lambda settings: first)  # and back
    run.keep_changes(settings, ["train", "--resume", "x"])
    assert runs.sessions(run.origin()) == [first, second, first]


def test_checkpoints_are_ordered_by_their_rounds(make):
    run = make()
    for round_ in (999_990, 1_000_000):
        checkpoint.write(run.checkpoint(round_), {"round": round_})
    assert run.last_checkpoint() == run.checkpoint(1_000_000)


def test_nobody_else_trains_a_run_meanwhile(make):
    run = make()
    another = training.held(run)
    with training.held(run), pytest.raises(ConfigError, match=r"another process is training .*: wait for its end"):
        another.__enter__()
    with training.held(run):
        pass
    (run.folder / "lock").unlink()
    (run.folder / "lock").mkdir()
    with pytest.raises(DiskError, match=r"cannot write .*: Is a directory"):
        training.held(run).__enter__()


def test_a_run_says_what_was_spent_on_the_weights_it_began_with(make):
    first = make()
    assert "init_from" not in first.origin()
    checkpoint.write(first.checkpoint(7), {"env_steps": 700, "core_seconds": 12.34})
    second = make(init_from=str(first.checkpoint(7)))
    assert second.origin()["init_from"] == {
        "run": str(first.folder),
        "checkpoint": "000007",
        "env_steps": 700,
        "core_seconds": 12.3,
    }
    checkpoint.write(second.checkpoint(5), {"env_steps": 50, "core_seconds": 1.0})
    third = make(init_from=str(second.checkpoint(5)))
    assert third.origin()["init_from"]["env_steps"] == 750  # of the first run too
    assert third.origin()["init_from"]["core_seconds"] == 13.3
    third.keep_changes(third.experiment(), ["train"])
    shutil.rmtree(second.folder)  # it may be gone, when the run is evaluated
    assert third.origin()["init_from"]["run"] == str(second.folder)


def test_a_checkpoint_outside_of_a_run_is_a_beginning_too(make, tmp_path):
    folder = tmp_path / "downloads" / "team"
    checkpoint.write(folder, {"env_steps": 700})  # of the first format
    spent = {"env_steps": 700, "core_seconds": 0}
    assert make(init_from=str(folder)).origin()["init_from"] == {"run": str(folder), "checkpoint": "team"} | spent
    with pytest.raises(ConfigError, match="checkpoint: none in"):
        make(init_from=str(tmp_path / "nothing"))


def test_the_source_is_that_of_all_files_and_their_names(tmp_path, monkeypatch):
    def digest(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(runs, "__file__", str(folder / "runs.py"))
        return runs.source()

    found = [digest(a="1", b="2"), digest(a="1", b="3"), digest(a="1", c="2"), digest(a="1")]
    assert len(set(found)) == 4
    assert digest(b="2", a="1") == found[0]


@pytest.mark.parametrize(("maker", "distribution"), [("yaml.x:f", "PyYAML"), ("foreign_worlds:Leavers", None)])
def test_a_run_keeps_the_versions_of_whoever_made_its_world(make, maker, distribution):
    found = make(env={"name": "pettingzoo", "maker": maker}).origin()["versions"]
    wanted = {"SuperSuit", *({distribution} - {None})}
    assert wanted <= found.keys()
    assert found["SuperSuit"] == metadata.version("supersuit")
    assert not wanted & make().origin()["versions"].keys()


def test_a_config_that_was_edited_by_hand_is_noticed(make, here):
    run = make()
    edit(run, "delta: 0.25", "delta: 0.5")
    for command in (["evaluate", run.folder], ["train", "--resume", run.folder], ["export", run.folder, "--out", "x"]):
        assert "channel.delta: 0.25 -> 0.5" in " ".join(here(*command, code=2).stderr.split())
    edit(run, "delta: 0.5", "delta: 0.25")
    edit(run, "env_steps: 1000000", "env_steps: 7")
    assert run.experiment().run.env_steps == 7


def test_of_a_checkpoint_without_settings_the_config_is_believed(make):
    run = make()
    state = json.loads((run.checkpoint(3) / "state.json").read_text())
    old = {"format": 1, "marlcomm": "0.1.0", "counters": state["counters"], "trees": {}}
    (run.checkpoint(3) / "state.json").write_text(json.dumps(old))
    assert run.experiment() == experiment({})
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        run.resumed(["seed=1"])


def test_keys_of_another_version_are_no_differences():
    now = experiment({}).as_data()
    then = json.loads(json.dumps(now))
    del then["run"]["checkpoint_minutes"], then["init_from"]
    then["policy"]["gone"] = 5
    assert differences(then, now) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "RUN", "chanel.delta=1"], "chanel: unknown key"),
        (["--resume", "RUN", "seed=3"], "the run would not be one training any more: seed: 0 -> 3"),
        (["configs/demo.yaml", "--force"], "it needs --resume RUN"),
        (["configs/demo.yaml", "--resume", "RUN"], "--resume takes a run and KEY=VALUE"),
    ],
)
def test_wrong_ways_to_go_on_are_named(make, here, arguments, said):
    run = make()
    words = [str(run.folder) if word == "RUN" else word for word in arguments]
    assert said in " ".join(here("train", *words, code=2).stderr.split())


# --- whose code is loaded ---------------------------------------------------------------------------------------------


@pytest.fixture
def another_user(tmp_path, monkeypatch):
    return lambda: monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "somebody"))


FOREIGN = {
    "imports": {"imports": ["tiny_world"]},
    "a maker": {"env": {"name": "pettingzoo", "maker": "os:system", "kwargs": {"command": "true"}, "horizon": 3}},
    "a script": {"env": {"name": "pettingzoo", "maker": "foreign_worlds:Leavers", "floor": "foreign_worlds:script"}},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_code_of_a_run_that_others_made_needs_a_word(make, here, another_user, name):
    run = make(FOREIGN[name])
    assert Run.open(run.folder).experiment()  # one's own: no word needed
    another_user()
    with pytest.raises(ConfigError, match="was not made by you here, and names code"):
        Run.open(run.folder).experiment()
    assert Run.open(run.folder, trusted=True).experiment()
    for command in (
        ["evaluate", run.folder],
        ["decode", run.folder],
        ["export", run.folder, "--out", "x"],
        ["train", "--resume", run.folder],
        ["train", "--init-from", run.folder],
        ["bench", "effective-symbols", run.folder],
        ["bench", "capacity", run.folder],
    ):
        assert "if you trust it, say --trust" in " ".join(here(*command, code=2).stderr.split())


def test_all_runs_are_looked_at_before_the_first_is_listened_to(make, here):
    chooses, other = make({"channel": {"name": "dvq"}}), make()  # neither was trained: the first has no checkpoint
    said = " ".join(here("bench", "capacity", chooses.folder, other.folder, code=2).stderr.split())
    assert "wanted a team whose messages choose theirs" in said
    assert other.folder.name in said


def test_a_signature_is_of_the_code_and_what_it_is_called_with(make):
    run = make(FOREIGN["a maker"])
    edit(run, "'true'", "'rm -r'")
    with pytest.raises(ConfigError, match="names code that is not marlcomm's: os:system"):
        run.experiment()


def test_a_run_without_foreign_code_needs_no_key(make, another_user, monkeypatch):
    run = make()
    assert "signature" not in json.loads((run.folder / "origin.json").read_text())
    another_user()
    assert run.experiment()
    monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(OSError("read-only")))
    assert trust.signature({"imports": ["x"]}) is None  # no key can be kept: whoever makes a run must say --trust
    assert not trust.signed({"imports": ["x"]}, None)


def test_a_wrong_path_of_a_run_is_told_with_the_nearest(make):
    home = make().folder.parent
    with pytest.raises(ConfigError, match=f"no run in .*; did you mean '{home}'"):
        Run.open(home.with_name(f"{home.name}s"))
    with pytest.raises(ConfigError, match=f"no run in '{home.parent}': .*known: {home}"):
        Run.open(home.parent)


def test_other_changes_have_other_files():
    run, changes = Run(Path("x")), ["env.success_return=-20", "env.success_return=20", "channel.bits=4", "env.map=ood"]
    assert [run.summary_file([change]).name for change in changes] == [
        "summary-env.success_return--20.json",
        "summary-env.success_return-20.json",
        "summary-bits-4.json",
        "summary-env.map-ood.json",
    ]
    pools = {run.summary_file([f"channel.pool={pool}"]).name for pool in ("[[1,4],[2,4]]", "[[1,4,2,4]]")}
    assert len(pools) == 2
    assert all(name.startswith("summary-pool-1-4-2-4-") for name in pools)


def test_what_a_config_names_is_found_wherever_it_stands():
    data = {"imports": "one", "env": {"kwargs": {"deep": [{"f": "a.b:c.d"}]}, "text": "not: code"}, "init_from": "a:b"}
    assert trust.named(data) == ["one", "a.b:c.d"]
    assert trust.named(experiment({}).as_data()) == []


def test_nothing_in_a_run_leads_out_of_it(make, tmp_path):
    run = make()
    (run.folder / "inside").symlink_to(run.folder / "config.yaml")
    assert Run.open(run.folder).folder == run.folder
    (tmp_path / "link").symlink_to(run.folder)
    assert Run.open(tmp_path / "link").experiment()
    (run.folder / "metrics.jsonl").symlink_to(tmp_path / "somewhere else")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is a link out of the run's folder"):
        Run.open(run.folder)
    with pytest.raises(ConfigError, match="is a link out"):
        Run.open(run.folder.parent)
    assert shutil.rmtree(run.folder) is None


def test_the_package_neither_pickles_nor_evaluates(pytestconfig):
    """What would run code that a file holds; docs/security.md says what is trusted instead."""
    forbidden = (
        r"\b(pickle|cloudpickle|marshal|shelve|joblib|dill)\b|torch\.(load|save)\(|(?<![\w.])(eval|exec|compile)\("
    )
    forbidden += r"|yaml\.(unsafe_)?load|allow_pickle=True|shell=True|os\.system"
    allowed = {"envs/foreign/workers.py", "analysis/trainings.py", "cli/restarts.py"}  # that start marlcomm's own
    for file in (pytestconfig.rootpath / "marlcomm").rglob("*.py"):
        name = file.relative_to(pytestconfig.rootpath / "marlcomm").as_posix()
        code = re.sub(r'"""[\s\S]*?"""|#.*', "", file.read_text(encoding="utf-8"))
        assert not re.search(forbidden, code), (name, re.search(forbidden, code))
        if re.search(r"^\s*(import|from) subprocess", code, re.MULTILINE):
            assert name in allowed


def test_the_folder_of_runs_is_left_out_of_a_command_wherever_it_stands():
    for folder in ("--runs /a", "--runs '/a b'", "--runs=/a"):
        assert runs.anywhere(f"marlcomm train x.yaml {folder} 'b=[1, 2]'") == "marlcomm train x.yaml 'b=[1, 2]'"
        assert runs.anywhere(f"marlcomm train x.yaml {folder}") == "marlcomm train x.yaml"
