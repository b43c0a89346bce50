"""Exported policies: two files that load without Ray and without pickle, and act as the run's last checkpoint does."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_teams import SMALL_WORLDS

import marlcomm
from marlcomm import checkpoint, config
from marlcomm.analysis.evaluation import team_names
from marlcomm.deployment import ABOUT, WEIGHTS
from marlcomm.policies.rollout import Player
from marlcomm.registry import ConfigError
from marlcomm.runs import Run

SPREAD = {"name": "particle_spread", "horizon": 4, "actions": "continuous"}
TEAMS = {
    "gates": {"policy": {"name": "ic3net"}, "channel": {"name": "ddcl"}},
    "rounds": {"policy": {"name": "tarmac", "rounds": 2, "key_size": 4}, "channel": {"name": "gumbel"}},
    "box, apart": {"env": SPREAD, "policy": {"name": "commnet", "parameters": "per_agent"}, "channel": {"name": "vq"}},
    "candidates": {"env": SMALL_WORLDS["lewis_game"] | {"name": "lewis_game"}},
    "indexed": {"env": {"name": "predator_prey"}, "channel": {"name": "dvq"}},
}


def trained(root, data, imports=()):
    """A run of a team whose weights are those it began with."""
    small = {"policy": {"hidden_size": 16, "message_size": 8}} | data
    small["policy"] = {"hidden_size": 16, "message_size": 8} | small["policy"]
    plan = config.experiment(small | {"imports": list(imports)})
    run = Run.create(plan, root / "runs", ["train"])
    names = team_names(plan)
    env = names.make_env(final=True)
    policy = names.make_policy(env, 0)
    weights = {f"policy.{name}": value.numpy() for name, value in policy.state_dict().items()}
    checkpoint.write(run.checkpoint(3), {"env_steps": 7}, plan.as_data(), weights=weights)
    return run, env, policy


@pytest.mark.parametrize("name", TEAMS)
@pytest.mark.parametrize("greedy", [False, True])
def test_an_exported_team_acts_as_the_trained_one(here, tmp_path, name, greedy):
    run, env, policy = trained(tmp_path, TEAMS[name])
    assert "written to" in here("export", run.folder, "--out", tmp_path / "out").stdout
    team = marlcomm.load_policy(tmp_path / "out")
    assert team.spec == env.spec
    worlds = torch.arange(5)
    with policy.eval().channel.evaluation():
        played = Player(env, policy, 0, "deployment").play(worlds, torch.full_like(worlds, 2), greedy)
    team.reset(worlds=5, episode=2)
    for time in range(env.spec.horizon):
        actions = team.act(played.observations[:, time], played.alive[:, time], played.spawned[:, time].numpy(), greedy)
        wanted = policy.distribution.to_world(played.actions[:, time])
        assert np.array_equal(actions, wanted.numpy())
        talk = played.talk.symbols.unflatten(1, (-1, policy.rounds))[:, time, -1]
        assert torch.equal(team.talk.symbols, talk)
    with pytest.raises(ValueError, match=f"an episode has {env.spec.horizon} steps, and this one is over"):
        team.act(played.observations[:, 0])
    team.reset(5)
    with pytest.raises(ValueError, match="observations: got shape"):
        team.act(played.observations[:2, 0])


WITHOUT = """
import sys, pickle
class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError("no ray here")
sys.meta_path.insert(0, NoRay())
import torch
def refuse(*arguments, **settings):
    raise AssertionError("a pickle is read")
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
"""


def test_the_pages_example_runs_without_ray_and_pickle(tmp_path, pytestconfig, here):
    """The code of docs/runs.md, in a process where both raise."""
    page = (pytestconfig.rootpath / "docs" / "runs.md").read_text(encoding="utf-8")
    (example,) = [part for part in page.split("```python\n")[1:] if "load_policy" in part]
    run, env, _ = trained(tmp_path, {"env": {"name": "traffic_junction"}})
    here("export", run.folder, "--out", tmp_path / "exported")
    script = WITHOUT + example.partition("```")[0] + "\nassert 'ray' not in sys.modules\nprint(actions.shape)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"(1, {env.spec.num_agents})\n")


def test_code_of_others_is_not_loaded(tmp_path, here, monkeypatch):
    run, _, _ = trained(tmp_path, {"channel": {"name": "sign"}}, imports=["third_party"])
    here("export", run.folder, "--out", tmp_path / "out")
    assert marlcomm.load_policy(tmp_path / "out").act(np.zeros((1, 5, 17))).shape == (1, 5)
    monkeypatch.delitem(sys.modules, "third_party")
    with pytest.raises(ConfigError, match="the team needs third_party: import it first, if you trust it"):
        marlcomm.load_policy(tmp_path / "out")
    assert "third_party" not in sys.modules


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    run, env, policy = trained(root, {"env": {"name": "traffic_junction"}})
    marlcomm.deployment.export(policy, env.spec, run.experiment(), {"run": "x"}, root / "out")
    return root / "out"


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (ABOUT, "format: 2", "format: 1", "got format 1, of marlcomm .* reads format 2"),
        (ABOUT, "format: 2", "x: 1", "got format None"),
        (ABOUT, "width: 64", "width: 32", "this is no exported policy: .*size mismatch"),
        (ABOUT, "  name: ddcl", "  name: ddlc", "did you mean 'ddcl'"),
        (ABOUT, "num_agents: 5", "num_agents: many", "this is no exported policy"),
        (ABOUT, "sha256: ", "sha: ", "this is no exported policy: 'sha256'"),
        (ABOUT, "format: 2", "!!python/object/apply:os.system ['true']", "is not YAML|must hold"),
    ],
)
def test_what_is_no_exported_policy_is_refused(exported, tmp_path, file, old, new, words):
    for name in (WEIGHTS, ABOUT):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=words):
        marlcomm.load_policy(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_weights_are_refused(exported, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    (folder / ABOUT).write_bytes((exported / ABOUT).read_bytes())
    blob = bytearray((exported / WEIGHTS).read_bytes())
    place = data.draw(st.integers(0, len(blob) - 1))
    if data.draw(st.booleans()):
        blob[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del blob[place:]
    (folder / WEIGHTS).write_bytes(blob)
    with pytest.raises(ConfigError, match="not the file that belongs to"):
        marlcomm.load_policy(folder)
