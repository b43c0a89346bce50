"""The command line, end to end, as a user runs it.

Processes of their own start Ray, get signals and go on afresh; what needs none of that runs in this one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import third_party
from commands import command, environment, marlcomm, wait_for
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from marlcomm.envs.cards import cards
from marlcomm.glossary import glossary
from marlcomm.registry import TABLES

SMALL = [
    "run.worlds=32",
    "run.evaluate_every=2",
    "run.evaluation_worlds=40",
    "run.checkpoint_every=3",
    "evaluation.episodes=60",
    "policy.hidden_size=16",
    "resources.threads=1",
    "resources.num_cpus=1",  # Ray starts an idle worker for each
]
ROUND = 32 * 20


@pytest.fixture
def workplace(tmp_path, pytestconfig):
    shutil.copytree(pytestconfig.rootpath / "configs", tmp_path / "configs")
    return tmp_path


def only_run(workplace):
    (folder,) = (workplace / "runs" / "demo").iterdir()
    return folder


def last_weights(folder):
    return load_file(sorted((folder / "checkpoints").glob("[0-9]*"))[-1] / "weights.safetensors")


def figures(folder, leave_out=("time/",)):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{tag: value for tag, value in line.items() if not tag.startswith(leave_out)} for line in lines]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, pytestconfig):
    """One small run from beginning to end, with what it printed."""
    workplace = tmp_path_factory.mktemp("finished")
    shutil.copytree(pytestconfig.rootpath / "configs", workplace / "configs")
    done = marlcomm("train", "configs/demo.yaml", *SMALL, f"run.env_steps={7 * ROUND}", cwd=workplace)
    return workplace, only_run(workplace), done


@pytest.fixture
def copied(finished, tmp_path):
    """The small run once more, to change it."""
    workplace, folder, _ = finished
    copy = shutil.copytree(workplace, tmp_path / "copied")
    return copy, copy / folder.relative_to(workplace)


def test_train_leaves_a_whole_run(finished):
    _, folder, done = finished
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "origin.json",
        "lock",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "summary.json",
    }
    origin = json.loads((folder / "origin.json").read_text())
    assert origin["versions"]["torch"]
    assert origin["command"].startswith("marlcomm train configs/demo.yaml run.worlds=32 run.evaluate_every=2")
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["000006", "000007"]
    for word in ("success", "env steps/s", "bits/message", "eta"):
        assert word in done.stdout
    assert f"tensorboard --logdir {folder.relative_to(folder.parents[2])}" in done.stdout.replace("\n", "")
    for row in (
        "transformer + ddcl on",
        "floor: always gas",
        "sampled actions",
        "greedy actions",
        "ceiling: scheduler",
    ):
        assert row in done.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["env_steps"] == 7 * ROUND
    assert summary["episodes"] == 60
    assert summary["ceiling/success"] > summary["floor/success"]
    for key in (
        "evaluation/success",
        "evaluation/prefix_bits_per_message",
        "greedy/success",
        "evaluation/wire_bytes_per_episode",
    ):
        assert np.isfinite(summary[key])


def test_every_logged_tag_is_in_the_glossary_and_the_other_way_round(finished):
    _, folder, _ = finished
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    logged = set(events.Tags()["scalars"])
    known = set(glossary("traffic_junction"))
    assert logged <= known
    # the other losses belong to other channels, gates to other policies; entropies appear when samples suffice
    others = {tag for tag in known if tag.startswith("channel/") or "gate_rate" in tag} - {"channel/rate"}
    sometimes = others | {tag for tag in known if "joint_entropy" in tag or "/bottleneck_" in tag}
    sometimes |= {tag for tag in known if "env_message_bits" in tag}  # where a world has words of its own
    sometimes |= {
        tag
        for tag, figure in glossary("traffic_junction").items()
        if figure.formula.startswith(("MADDPG:", "supervised:"))
    }
    sometimes |= {"policy/entropy_share", "policy/entropy_weight"}  # of a target for the entropy
    assert known - logged <= sometimes
    steps = [point.step for point in events.Scalars("train/success")]
    assert steps == [ROUND * (index + 1) for index in range(7)]
    assert [point.step for point in events.Scalars("validation/success")] == [ROUND * index for index in (2, 4, 6)]
    in_jsonl = set().union(*map(set, figures(folder, leave_out=()))) - {"env_steps", "round"}
    assert in_jsonl == logged


def test_evaluate_says_the_same_again(copied, here):
    workplace, folder = copied
    before = json.loads((folder / "summary.json").read_text())
    done = marlcomm("evaluate", "runs/demo", cwd=workplace)
    assert "ceiling: scheduler" in done.stdout
    after = json.loads((folder / "summary.json").read_text())
    assert {k: v for k, v in after.items() if "seconds" not in k} == {
        k: v for k, v in before.items() if "seconds" not in k
    }
    here("evaluate", folder, "--episodes", 10, "--seed", 5, cwd=workplace)
    again = json.loads((folder / "summary-episodes-10-seed-5.json").read_text())
    assert (again["episodes"], again["evaluation_seed"]) == (10, 5)
    assert json.loads((folder / "summary.json").read_text()) == after


def test_a_trained_team_is_evaluated_with_another_channel(copied, here):
    workplace, folder = copied
    before = (folder / "summary.json").read_text()
    here("evaluate", folder, "channel.name=post_training", "channel.bits=2", "--episodes", 40, cwd=workplace)
    summary = json.loads((folder / "summary-post_training-bits-2-episodes-40.json").read_text())
    assert summary["channel_settings"]["bits"] == 2
    assert summary["evaluation/prefix_bits_per_message"] == 8.0
    assert (folder / "summary.json").read_text() == before
    done = here("evaluate", folder, "policy.message_size=3", cwd=workplace, code=2)
    assert "wanted channel.KEY=VALUE or env.KEY=VALUE" in done.stderr


def start(workplace, *arguments):
    return subprocess.Popen(
        command("train", "configs/demo.yaml", *SMALL, *arguments),
        cwd=workplace,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rounds_done(workplace):
    files = list((workplace / "runs").glob("demo/*/metrics.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def test_sigterm_saves_and_resume_is_exact(workplace, finished, trains_here):
    """Interrupted in the middle and continued in another process: bit for bit the run that never stopped."""
    _, whole, _ = finished
    process = start(workplace, f"run.env_steps={7 * ROUND}")
    wait_for(lambda: rounds_done(workplace) >= 2, process)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert "Traceback" not in err
    assert "finishing the update, then saving" in err
    folder = only_run(workplace)
    assert f"marlcomm train --resume {folder.relative_to(workplace)}" in out.replace("\n", "")
    done = rounds_done(workplace)
    assert done < 7
    assert sorted((folder / "checkpoints").iterdir())[-1].name == f"{done:06d}"
    trains_here("train", "--resume", folder.relative_to(workplace), "--no-evaluate", cwd=workplace)
    assert figures(folder) == figures(whole)
    for name, value in last_weights(whole).items():
        assert np.array_equal(value, last_weights(folder)[name]), name


def test_ctrl_c_before_the_first_round_loses_nothing(workplace, trains_here):
    process = start(workplace, f"run.env_steps={ROUND}")
    wait_for(lambda: list((workplace / "runs").glob("demo/*/origin.json")), process)
    time.sleep(1)  # Ray is starting
    # As a terminal does it: Ctrl-C reaches every process of the group, Ray's too.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "marlcomm train --resume" in out
    (folder,) = (only_run(workplace) / "checkpoints").iterdir()
    assert folder.name == "000000"
    trains_here("train", "--resume", "runs/demo", "--no-evaluate", cwd=workplace)
    assert len(figures(only_run(workplace))) == 1


def test_ctrl_c_before_anything_could_be_saved_leaves_no_folder(workplace, here, monkeypatch):
    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("marlcomm.cli.training._trained", interrupted)
    here("train", "configs/demo.yaml", cwd=workplace, code=130)
    assert not list((workplace / "runs").glob("*/*"))


def test_a_run_that_cannot_go_on_says_why_and_what_is_saved(workplace, trains_here):
    done = trains_here(
        "train",
        "configs/demo.yaml",
        *SMALL,
        "channel.name=continuous",
        "algorithm.lr=1e35",
        "run.checkpoint_every=1",
        cwd=workplace,
        code=1,
    )
    # The first update ruins the weights; the messages of the next ones are infinite, or else their losses or gradients.
    assert re.search(r"error: (\d+ updates in a row had |\w+: \d+ messages hold NaN)", done.stderr)
    assert f"marlcomm train --resume {only_run(workplace).relative_to(workplace)}" in done.stderr


def test_what_only_ray_can_refuse_leaves_no_folder(workplace, trains_here):
    done = trains_here("train", "configs/demo.yaml", *SMALL, "resources.num_gpus_per_learner=1", cwd=workplace, code=2)
    assert "num_gpus_per_learner: 1 learners need 1 GPUs, Ray has 0" in done.stderr
    assert not list((workplace / "runs").glob("*/*"))


def test_ctrl_c_reaches_remote_workers_too_and_saves(workplace):
    workers = ["resources.num_env_runners=1", "resources.num_learners=1", "resources.num_cpus=2"]
    process = start(workplace, f"run.env_steps={10_000 * ROUND}", *workers)
    wait_for(lambda: rounds_done(workplace) >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    assert "marlcomm train --resume" in out
    assert (only_run(workplace) / "checkpoints" / f"{rounds_done(workplace):06d}" / "state.json").is_file()


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_last_checkpoint_whole(workplace):
    process = start(workplace, "run.worlds=400", "run.checkpoint_every=1", f"run.env_steps={10**9}")
    wait_for(lambda: rounds_done(workplace) >= 1, process)
    checkpoints = only_run(workplace) / "checkpoints"
    wait_for(lambda: list(checkpoints.glob("[0-9]*/state.json")), process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    clock = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - clock < 10
    assert "stopped and saved" not in out
    for folder in checkpoints.glob("[0-9]*"):
        assert {path.name for path in folder.iterdir()} == {
            "state.json",
            "weights.safetensors",
            "optimizer.safetensors",
        }


def test_another_channel_on_the_command_line_trains(workplace, trains_here):
    done = trains_here(
        "train", "configs/demo.yaml", "channel.name=vq", "channel.codebook_size=64", *SMALL, f"run.env_steps={ROUND}",
        "--no-evaluate", cwd=workplace,
    )  # fmt: skip
    assert "no longer apply" in done.stderr
    config = (only_run(workplace) / "config.yaml").read_text()
    assert "codebook_size: 64" in config
    assert "\n  delta:" not in config


def test_a_trained_team_goes_on_with_another_channel(copied, trains_here):
    workplace, parent = copied
    done = trains_here(
        "train", "--init-from", parent, "channel.name=vq", "name=swapped", f"run.env_steps={ROUND}", "--no-evaluate",
        cwd=workplace,
    )  # fmt: skip
    assert "new are channel.codebook" in done.stdout
    (folder,) = (workplace / "runs" / "swapped").iterdir()
    assert f"init_from: {parent}/checkpoints/" in (folder / "config.yaml").read_text()
    first, before, after = (
        last_weights(folder)["/policy.encoder.0.weight"],
        last_weights(parent)["/policy.encoder.0.weight"],
        sorted((folder / "checkpoints").glob("[0-9]*"))[0],
    )
    assert not np.array_equal(first, before)  # it went on learning
    assert np.array_equal(load_file(after / "weights.safetensors")["/policy.encoder.0.weight"], before)
    # What it began with may go: the run's own checkpoints are enough.
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(parent), "gone"))
    refused = trains_here("train", "--resume", folder, "channel.codebook_size=3", cwd=workplace, code=2)
    assert "channel.codebook_size: 16 -> 3; --force goes on all the same" in " ".join(refused.stderr.split())
    done = trains_here(
        "train", "--resume", folder, f"run.env_steps={2 * ROUND}", "algorithm.lr=1e-4", "--force", cwd=workplace
    )
    assert f"note: run.env_steps: {ROUND} -> {2 * ROUND}" in done.stderr
    assert f"env_steps: {2 * ROUND}" in config.read_text()
    (session,) = json.loads((folder / "summary.json").read_text())["resumed"]
    assert (session["round"], session["forced"]) == (1, ["algorithm.lr"])


def test_a_registered_channel_trains_from_the_command_line(workplace, trains_here):
    trains_here(
        "train", "configs/demo.yaml", "channel.name=sign", "imports=[third_party]", *SMALL, f"run.env_steps={ROUND}",
        cwd=workplace,
    )  # fmt: skip
    summary = json.loads((only_run(workplace) / "summary.json").read_text())
    assert summary["evaluation/prefix_bits_per_message"] == 4.0


def test_a_module_beside_the_config_is_found_by_the_program_and_its_workers(workplace):
    """By the console script, whose own folder is what Python searches first, and without PYTHONPATH."""
    shutil.copy(third_party.__file__, workplace / "my_channels.py")
    program = Path(sys.executable).parent / "marlcomm"
    done = subprocess.run(
        [program, "train", "configs/demo.yaml", "--import", "my_channels", "channel.name=sign", *SMALL,
         f"run.env_steps={ROUND}", "resources.num_env_runners=1", "resources.num_cpus=2", "--no-evaluate"],
        capture_output=True, text=True, cwd=workplace, env=environment() | {"PYTHONPATH": ""}, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    assert "- my_channels" in (only_run(workplace) / "config.yaml").read_text()


def test_lists(here):
    expected = {
        "envs": [
            "traffic_junction",
            "communicating_goal",
            "particle_spread",
            "predator_prey",
            "ghost_run",
            "lewis_game",
            "pettingzoo",
        ],
        "channels": [
            "continuous",
            "silent",
            "float16",
            "bfloat16",
            "int8",
            "post_training",
            "uniform",
            "fsq",
            "lfq",
            "bsq",
            "vq",
            "dvq",
            "rvq",
            "ddcl",
            "gumbel",
            "gr_mck",
            "daps",
            "sign",
        ],
        "policies": ["ic3net", "commnet", "tarmac", "transformer"],
        "algorithms": ["ic3net", "mappo", "maddpg", "supervised"],
    }
    for kind, names in expected.items():
        plugin = ["--import", "third_party"] if kind == "channels" else []
        out = here("list", kind, *plugin).stdout
        listed = [line.split()[0] for line in out.splitlines()[1:] if line and not line.startswith(" ")]
        assert [name for name in listed if name not in theirs() - {"sign"}] == names
    out = here("list", "channels", "vq").stdout
    assert re.search(r"codebook_size +16 +L, the codewords of a segment", out)


def theirs():
    """Names of what tests registered in this process."""
    return {name for table in TABLES.values() for name, row in table.rows.items() if not isinstance(row.target, str)}


def test_check_channel(here):
    out = here("check", "channel", "sign", "--import", "third_party").stdout
    assert re.search(r"channel sign keeps all \d+ promises", out)
    out = here("check", "channel", "vq", "segments=4", "codebook_size=3").stdout
    assert "keeps all" in out


def test_bench_card(workplace, pytestconfig, here):
    stored = (pytestconfig.rootpath / "marlcomm/envs/cards_data/traffic_junction.json").read_bytes()
    out = here("bench", "card", "traffic_junction", "--episodes", 20, "--out", "card.json", cwd=workplace).stdout
    assert "scheduler" in out
    assert (pytestconfig.rootpath / "marlcomm/envs/cards_data/traffic_junction.json").read_bytes() == stored
    card = json.loads((workplace / "card.json").read_text())
    assert card["easy-vision0-rate0.3"]["references"]["scheduler"]["success"] > 0.9
    chosen = here("bench", "card", "traffic_junction", "vision=1", "--episodes", 20, cwd=workplace).stdout
    assert "easy-vision1-rate0.3" in chosen
    assert "easy-vision0" not in chosen


def silent_run(workplace, name, **changes):
    """A run's folder with what an evaluation leaves there."""
    folder = workplace / "runs" / name / "now"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("env: {name: traffic_junction}\n")
    summary = {"env": "traffic_junction", "channel": "silent", "setting": "easy-vision0-rate0.3", "env_steps": 10}
    summary |= {"seed": 0, "command": "marlcomm train x.yaml --runs elsewhere", "evaluation/length": 20.0}
    summary |= {"evaluation/success": 0.25, "evaluation/return": -30.0} | changes
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_what_was_learned_in_silence_is_added_to_cards(workplace, here):
    runs = [silent_run(workplace, "first"), silent_run(workplace, "best", **{"seed": 1, "evaluation/success": 0.5})]
    words = [word for run in runs for word in ("--silent", run)]
    here("bench", "card", "traffic_junction", *words, "--out", "card.json", cwd=workplace)
    found = json.loads((workplace / "card.json").read_text())
    assert found["easy-vision0-rate0.3"]["silent"] == {
        "success": 0.5,
        "return": -30.0,
        "length": 20.0,
        "env_steps": 10,
        "by_seed": {"0": 0.25, "1": 0.5},
        "command": "marlcomm train x.yaml",
    }
    stored = cards("traffic_junction")
    assert found["easy-vision0-rate0.3"]["references"] == stored["easy-vision0-rate0.3"]["references"]
    assert {name: card for name, card in found.items() if name != "easy-vision0-rate0.3"} == {
        name: card for name, card in stored.items() if name != "easy-vision0-rate0.3"
    }
    for change, said in (({"channel": "vq"}, "with channel 'vq', wanted"), ({"setting": "x"}, "has no card of x")):
        run = silent_run(workplace, next(iter(change)), **change)
        done = here("bench", "card", "traffic_junction", "--silent", run, cwd=workplace, code=2)
        assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "train",
        "sweep",
        "evaluate",
        "export",
        "list",
        "check",
        "check channel",
        "data",
        "data lewis_game",
        "bench",
        "bench capacity",
        "bench card",
        "bench effective-symbols",
    ],
)
def test_help_everywhere(here, verb):
    assert "Usage" in here(*verb.split(), "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "wanted a config file"),
        (["train", "configs/dem.yaml"], "no file 'configs/dem.yaml'; did you mean 'configs/demo.yaml'"),
        (["train", "configs"], "a folder is 'configs'; known: configs/"),
        (["train", "env_steps=4000"], "env_steps: unknown key; did you mean run.env_steps?"),
        (["train", "policy.name=tarmac", "keys=4", "worlds=3"], "worlds: unknown key; did you mean run.worlds?"),
        (["train", "policy.groups=3"], "policy.groups: got 3, wanted a list, as in [a,b]"),
        (["train", "init_from=configs"], "checkpoint: none in 'configs', wanted a folder that holds state.json"),
        (["sweep", "name=a,b"], "a sweep has one name"),
        (
            ["check", "env", "pettingzoo", "maker=foreign_worlds:Leavers", "copies=2"],
            "plays 2 worlds at once, wanted at least 16",
        ),
        (["train", "configs/demo.yaml", "channel.delt=1"], "channel.delt: unknown key (value 1); did you mean 'delta'"),
        (["train", "configs/demo.yaml", "channel.name=vq", "channel.segments=3"], "channel.segments: got 3"),
        (["train", "channel.name=vq", "channel.segments=3"], "channel.segments: got 3"),  # no file: all defaults
        (["train", "cluster.address=ray://head:10001"], "cluster.address: got 'ray://head:10001'"),
        (["train", "configs/demo.yaml", "--runs", "configs/demo.yaml"], "--runs: cannot make 'configs/demo.yaml/demo/"),
        (["check", "channel", "vq", "name=ddcl"], "name: got 'ddcl', but the channel to check is 'vq' already"),
        (["train", "configs/demo.yaml", "channel"], "wanted KEY=VALUE"),
        (["train", "configs/demo.yaml", "--resume", "runs/x"], "--resume takes a run and KEY=VALUE"),
        (["train", "--resume", "runs/none"], "no run in 'runs/none'"),
        (["train", "--init-from", "runs/none", "channel.name=vq"], "no run in 'runs/none'"),
        (
            ["train", "configs/demo.yaml", "resources.num_env_runners=64", "resources.num_cpus=3"],
            "64 env runners and 0 learners need 64 CPUs, here are 3; resources.num_cpus=64 lets them share",
        ),
        (["evaluate", "runs/none"], "no run in 'runs/none'"),
        (["evaluate", "runs/none", "--seed", 2**63], "less than or equal to 2147483647"),
        (["list", "chanels"], "did you mean 'channels'"),
        (["list", "channels", "vqq"], "unknown channel 'vqq'"),
        (["check", "channel", "vqq"], "did you mean 'vq'"),
        (["check", "channel", "vq", "size=3"], "channel.size: unknown key"),
        (["check", "channel", "vq", "segments=3"], "channel.segments: got 3, wanted a divisor"),
        (["train", "configs/demo.yaml", "algorithm.entropy_coeff.1.1=3"], "do not fit the file"),
        (["train", "configs/demo.yaml", "--import", "no_such"], "imports: cannot import 'no_such'"),
        (["bench", "card", "trafic_junction"], "did you mean 'traffic_junction'"),
        (["bench", "card", "traffic_junction", "--out", "configs"], "--out: 'configs' is a folder, wanted a file"),
        (
            ["bench", "capacity", "x", "--out", "configs/demo.yaml"],
            "'configs/demo.yaml' is a file, wanted a folder",
        ),
        (["bench", "card", "lewis_game", "--out", "configs/demo.yaml/x.json"], "'configs/demo.yaml' is a file"),
        (["bench", "channels", "configs/demo.yaml"], "env.name: got 'traffic_junction', wanted communicating_goal"),
        (["bench", "channels", "configs/communicating_goal.yaml", "--channel", "vq"], "'fsq, 3 x 3', 'lfq, 6 bits'"),
        (["train", "configs/demo.yaml", "seed=0..4"], "got seed=0..4, several values: marlcomm sweep"),
        (["train", "demo.yaml"], "no file 'demo.yaml'; did you mean 'configs/demo.yaml'"),
        (["study", "run", "study.yaml"], "study: no file 'study.yaml'"),
        (["study", "run", "configs"], "study: a folder is 'configs'"),
        (["check", "env", "traffic_junction", "--device", "foo"], "--device: got 'foo', which is not here"),
        (["data", "lewis_game", "--out", "x.npz", "--seed", "-1"], "--seed: got -1"),
        (["data", "lewis_game", "--out", "x.npz", "--min-symbols", "0"], "--min-symbols: got 0"),
        (["train", "env.curriculum=true"], "env.curriculum: got True, wanted keys and values, as in {key: value}"),
    ],
)
def test_wrong_arguments_are_named_with_exit_code_2(workplace, here, arguments, words):
    done = here(*arguments, cwd=workplace, code=2)
    assert words in re.sub(r"\s+", " ", done.stderr)
    assert not (workplace / "runs").exists()
