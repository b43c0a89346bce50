"""A trained team in another size, density or map of its world."""

import json

import numpy as np
import pytest

from marlcomm import checkpoint, config
from marlcomm.analysis.evaluation import team_names
from marlcomm.runs import Run


@pytest.fixture
def team(tmp_path):
    """A run of a team in some world, whose weights are those it began with."""

    def make(env, *overrides):
        data = {
            "env": env,
            "policy": {"hidden_size": 16, "message_size": 4},
            "channel": {"name": "fsq"},
            "evaluation": {"episodes": 20, "code_episodes": 20},
        }
        settings = config.experiment(config.merge(data, overrides)[0])
        run = Run.create(settings, tmp_path / "runs", ["train"])
        names = team_names(settings)
        weights = names.make_policy(names.make_env(), 0).state_dict()
        arrays = {f"policy.{name}": value.numpy() for name, value in weights.items()}
        checkpoint.write(run.checkpoint(0), {"env_steps": 0, "seconds": 0.0, "core_seconds": 0.0}, weights=arrays)
        return run

    return make


@pytest.mark.parametrize(
    ("env", "change", "setting"),
    [
        ({"name": "traffic_junction"}, "env.add_rate=0.6", "easy-vision0-rate0.6"),
        ({"name": "particle_spread", "view": "nearest"}, "env.agents=7", "nearest-7agents"),
        ({"name": "predator_prey"}, "env.predators=6", "5x5-6predators"),
        ({"name": "predator_prey", "vision": 0}, "env.moving_prey=true", "easy-vision0-mixed-moving"),
    ],
    ids=str,
)
def test_a_team_plays_where_its_widths_allow(team, here, env, change, setting):
    run = team(env, "policy.name=ic3net" if env["name"] == "traffic_junction" else "policy.name=transformer")
    here("evaluate", run.folder, change)
    word = change.replace("=", "-")
    changed = json.loads((run.folder / f"summary-{word}.json").read_text())
    assert changed["setting"].startswith(setting)
    here("evaluate", run.folder)
    before = json.loads((run.folder / "summary.json").read_text())
    assert before["setting"] != changed["setting"]
    # Floor and ceiling are those of the changed world.
    for group in ("evaluation", "floor", "ceiling"):
        assert before[f"{group}/return"] != changed[f"{group}/return"]
    assert np.isfinite(changed["evaluation/coded_bits_per_agent_step"])


@pytest.mark.parametrize(
    ("env", "change", "said"),
    [
        ({"name": "traffic_junction"}, "env.vision=1", "an observation is 137 numbers wide, not 17 as in training"),
        ({"name": "particle_spread"}, "env.agents=4", "an observation is 24 numbers wide, not 18 as in training"),
        ({"name": "predator_prey"}, "env.size=6", "an observation is "),
        ({"name": "predator_prey"}, "env.stay=false", "an agent has 4 actions, not 5 as in training"),
        (
            {"name": "particle_spread"},
            "env.actions=continuous",
            "actions are points between 0.0 and 1.0, not discrete as in training",
        ),
    ],
    ids=str,
)
def test_elsewhere_it_is_said_which_width_is_another(team, here, env, change, said):
    run = team(env)
    assert said in here("evaluate", run.folder, change, code=2).stderr
    assert not list(run.folder.glob("summary*"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("agent_identity", "adds 7 numbers to an observation, one for each agent"),
        ("knows_senders", "has a vector for each of 7 agents"),
        ("slot_bias", "has vectors for each of 7 agents"),
    ],
)
def test_agents_that_know_their_number_stay_as_many(team, here, setting, words):
    run = team({"name": "particle_spread", "view": "nearest"}, f"policy.{setting}=true")
    said = " ".join(here("evaluate", run.folder, "env.agents=7", code=2).stderr.split())
    assert f"policy.{setting} {words}, not 3 as in training" in said


def test_it_is_the_world_that_it_was_trained_in(team, here):
    run = team({"name": "traffic_junction"})
    for change in ("env.name=particle_spread", "policy.hidden_size=3"):
        assert "wanted channel.KEY=VALUE or env.KEY=VALUE" in here("evaluate", run.folder, change, code=2).stderr
    assert "did you mean 'add_rate'" in here("evaluate", run.folder, "env.addrate=1", code=2).stderr
    here("evaluate", run.folder, "env.add_rate=0.6", "channel.name=int8", "--episodes", 5)
    (file,) = run.folder.glob("summary-*")
    assert file.name == "summary-env.add_rate-0.6-int8-episodes-5.json"
