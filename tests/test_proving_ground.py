"""Every channel on Communicating Goal, by one command."""

import json

import pytest
from commands import marlcomm

from marlcomm.analysis import proving_ground
from marlcomm.config import experiment, merge

CONFIG = """
name: small
env: {name: communicating_goal}
policy: {name: transformer, message_size: 4, width: 8, hidden_size: 16, heads: 2, recurrent: false}
channel: {name: continuous}
algorithm: {name: mappo, num_minibatches: 1}
run: {worlds: 32, env_steps: 400, evaluate_every: null, checkpoint_every: 50}
evaluation: {episodes: 60, code_episodes: 40}
"""


@pytest.mark.parametrize("label", proving_ground.CHANNELS)
def test_every_entry_is_a_valid_experiment(label):
    data = {"env": {"name": "communicating_goal"}, "policy": {"name": "transformer", "message_size": 4}}
    settings = experiment(merge(data, proving_ground.CHANNELS[label])[0])
    assert settings.channel.name in label or label == "uniform, 2 bits"


def test_one_command_compares_and_goes_on(tmp_path, trainings_here):
    (tmp_path / "small.yaml").write_text(CONFIG)
    command = ("bench", "channels", "small.yaml", "--seeds", 1, "--jobs", 1, "--out", "results")
    trainings_here(*command, "--channel", "continuous", cwd=tmp_path)
    first = json.loads((tmp_path / "results" / "teams.json").read_text())
    assert [(team["label"], team["seed"]) for team in first["teams"]] == [
        ("continuous", 0),
        ("continuous, then 2 bits", 0),
        ("continuous, then 4 bits", 0),
        ("continuous, then 8 bits", 0),
    ]
    bits = [team["figures"]["coded_bits_per_agent_step"] for team in first["teams"]]
    assert bits[0] == 128
    assert bits[1] <= 8
    assert bits[2] <= 16
    assert all(team["normalized_return"] < 0.9 for team in first["teams"])
    assert first["lower_curve"][-1]["normalized_return"] == pytest.approx(1)
    assert (tmp_path / "results" / "teams.png").stat().st_size > 10_000
    runs = sorted((tmp_path / "runs").glob("*/*"))
    trainings_here(*command, "--channel", "continuous", cwd=tmp_path)
    assert sorted((tmp_path / "runs").glob("*/*")) == runs  # nothing was trained again
    assert json.loads((tmp_path / "results" / "teams.json").read_text())["teams"] == first["teams"]
    (tmp_path / "small.yaml").write_text(CONFIG.replace("worlds: 32", "worlds: 16"))
    done = trainings_here(*command, "--channel", "continuous", cwd=tmp_path, code=2)
    assert "was trained with run.worlds = 32, wanted 16" in " ".join(done.stderr.split())


def test_what_cannot_be_compared_is_named(tmp_path, pytestconfig, here):
    demo = pytestconfig.rootpath / "configs" / "demo.yaml"
    assert "wanted communicating_goal" in marlcomm("bench", "channels", demo, cwd=tmp_path, code=2).stderr
    (tmp_path / "small.yaml").write_text(CONFIG)
    done = here("bench", "channels", "small.yaml", "--channel", "vq", cwd=tmp_path, code=2)
    assert "unknown 'vq'; did you mean 'vq, 8'?" in " ".join(done.stderr.split())
