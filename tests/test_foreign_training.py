"""Third-party environments trained end to end, and worlds of ours in the hands of others."""

import json

import numpy as np
import pytest
import supersuit
from learning import weights
from pettingzoo.test import parallel_api_test

from marlcomm.algorithms import IC3NetConfig, MAPPOConfig
from marlcomm.config import experiment
from marlcomm.envs import communicating_goal_v0, particle_spread_v0, predator_prey_v0, traffic_junction_v0
from marlcomm.envs.pettingzoo import TeamParallelEnv
from marlcomm.glossary import glossary
from marlcomm.registry import ENVS

SPEAKER = "mpe2.simple_speaker_listener_v4:parallel_env"
REFERENCE = "mpe2.simple_reference_v3:parallel_env"
ZOMBIES = "pettingzoo.butterfly.knights_archers_zombies_v11:parallel_env"
SMALL = {"hidden_size": 16, "message_size": 4}


@pytest.fixture
def build(cluster, built):
    """Builds algorithms on a third-party environment."""

    def start(kind=MAPPOConfig, *, channel="ddcl", policy="transformer", runners=0, worlds=8, training=None, **env):
        config = (
            kind()
            .environment("pettingzoo", env_config=env)
            .communication(policy=policy, policy_config=SMALL, channel=channel)
            .env_runners(num_env_runners=runners, num_envs_per_env_runner=worlds // max(runners, 1))
            .training(**training or {})
            .evaluation(evaluation_duration=100)
            .debugging(seed=3)
        )
        return built(config)

    return start


@pytest.mark.parametrize(
    ("kind", "policy", "channel", "env"),
    [
        (MAPPOConfig, "transformer", "ddcl", {"maker": REFERENCE}),
        (MAPPOConfig, "transformer", "silent", {"maker": REFERENCE}),
        (MAPPOConfig, "transformer", "ddcl", {"maker": SPEAKER, "strip_comm": True, "processes": 1}),
        (MAPPOConfig, "transformer", "vq", {"maker": SPEAKER, "kwargs": {"continuous_actions": True}}),
        (IC3NetConfig, "ic3net", "ddcl", {"maker": ZOMBIES, "kwargs": {"max_cycles": 20, "line_death": True}}),
        (IC3NetConfig, "ic3net", "continuous", {"maker": "foreign_worlds:Leavers", "copies": 3}),
        (MAPPOConfig, "transformer", "ddcl", {"maker": "foreign_worlds:Boxes"}),
    ],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
def test_third_party_environments_are_trained_on(build, kind, policy, channel, env):
    algorithm = build(kind, policy=policy, channel=channel, **env)
    before = weights(algorithm)
    for _ in range(2):
        algorithm.train()
    figures = algorithm.figures
    assert figures["replay/ratio_error"] <= 1e-4
    assert figures["update/skipped"] == 0
    assert figures.keys() <= glossary("pettingzoo").keys()
    assert any((before[name] != value).any() for name, value in weights(algorithm).items())
    talks = channel != "silent" and not env.get("strip_comm") and "mpe2" in env["maker"]
    assert ("bandwidth/env_message_bits_per_agent_step" in figures) == talks
    if env["maker"] == ZOMBIES:
        assert figures["train/survivors"] < 4
        assert figures["train/length"] <= 20
    assert np.isfinite(algorithm.evaluate()["env_runners"]["return"])


@pytest.mark.parametrize("channel", ["continuous", "silent"])
def test_a_team_learns_to_tell_in_a_third_partys_environment(build, channel):
    training = {"entropy_coeff": 0.01, "reward_scale": 1.0, "lr": 3e-3}
    algorithm = build(channel=channel, worlds=128, training=training, maker="foreign_worlds:Secrets", copies=128)
    for _ in range(20):
        algorithm.train()
    success = algorithm.evaluate()["env_runners"]["success"]
    assert success > 0.9 if channel == "continuous" else success < 0.65  # a coin flip: 0.5


def test_remote_runners_and_workers_play_the_same_episodes(build):
    env = {"maker": SPEAKER, "strip_comm": True}
    alone, spread = build(**env), build(runners=1, processes=2, **env)
    for algorithm in (alone, spread):
        algorithm.train()
    for name in ("train/return", "bandwidth/prefix_bits_per_message"):
        assert spread.figures[name] == pytest.approx(alone.figures[name], rel=1e-5)


def test_core_seconds_are_of_workers_too(build, monkeypatch):
    monkeypatch.setattr("marlcomm.rllib.stopwatch.Stopwatch.core_seconds", 0.0)  # of this process
    algorithm = build(processes=1, maker="foreign_worlds:Leavers")
    for _ in range(2):
        algorithm.train()
    assert algorithm.core_seconds == pytest.approx(algorithm.env_runner.env.worker_seconds)
    assert algorithm.core_seconds > 0


def test_the_docs_command_trains_evaluates_and_proves_its_packets(trains_here, tmp_path, pytestconfig):
    page = (pytestconfig.rootpath / "docs/worlds.md").read_text(encoding="utf-8")
    section = page.partition("## `pettingzoo`")[2]
    command = section.partition("marlcomm train ")[2].partition("\n")[0].split()
    small = [
        "run.worlds=8",
        "run.env_steps=300",
        "run.evaluation_worlds=4",
        "evaluation.episodes=6",
        "run.evaluate_every=1",
    ]
    small += ["evaluation.code_episodes=6", "policy.hidden_size=16", "resources.threads=1", "env.strip_comm=false"]
    command[0] = str(pytestconfig.rootpath / command[0])
    trains_here("train", *command, *small, cwd=tmp_path)
    (folder,) = (tmp_path / "runs").glob("*/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["env"] == "pettingzoo"
    assert summary["floor"] == "random"
    assert summary["evaluation/env_message_bits_per_agent_step"] == pytest.approx(np.log2(3) / 2)
    assert experiment(experiment({"env": {"name": "pettingzoo", "maker": SPEAKER}}).as_data())
    said = trains_here("evaluate", folder, "--wire", "--episodes", 5, cwd=tmp_path).stdout
    assert "by actions of the world's own: 0.79 bits/agent step" in said
    assert "have the recorded actions and returns" in trains_here("decode", folder, cwd=tmp_path).stdout
    refused = trains_here("evaluate", folder, "env.strip_comm=true", cwd=tmp_path, code=2).stderr
    assert "an observation is 8 numbers wide, not 11 as in training" in refused
    before = set(folder.iterdir())
    trains_here("evaluate", folder, "env.kwargs.max_cycles=10", "--episodes", 5, cwd=tmp_path)
    (changed,) = set(folder.iterdir()) - before
    assert json.loads(changed.read_text())["evaluation/length"] == 10


# --- the way out ------------------------------------------------------------------------------------------------------

FACES = {
    "traffic_junction": traffic_junction_v0,
    "communicating_goal": communicating_goal_v0,
    "particle_spread": particle_spread_v0,
    "predator_prey": predator_prey_v0,
}


@pytest.mark.parametrize("name", FACES)
def test_supersuit_vectorises_our_worlds(name):
    face = FACES[name].parallel_env()
    agents, width = len(face.possible_agents), face.observation_space(face.possible_agents[0]).shape[0]
    single = supersuit.pettingzoo_env_to_vec_env_v1(face)
    many = supersuit.concat_vec_envs_v1(single, 2, num_cpus=0, base_class="gymnasium")
    observations, _ = many.reset(seed=1)
    assert observations.shape == (2 * agents, width)
    alone = TeamParallelEnv(ENVS.row(name).load()(face.world.settings))
    first, _ = alone.reset(seed=1)
    assert np.array_equal(observations[:agents], np.stack(list(first.values())))
    horizon = face.world.spec.horizon
    for _ in range(horizon + 1):  # one more: vectorisers begin anew by themselves
        observations, rewards, terminated, truncated, _ = many.step(
            np.stack([many.action_space.sample() for _ in range(2 * agents)])
        )
        assert observations.shape == (2 * agents, width)
        assert np.isfinite(rewards).all()
        assert terminated.shape == truncated.shape == (2 * agents,)


def test_a_third_partys_environment_comes_out_again():
    face = TeamParallelEnv(ENVS.row("pettingzoo").load()(ENVS.check("pettingzoo", {"maker": REFERENCE})))
    parallel_api_test(face, num_cycles=60)


def test_rllibs_own_ppo_trains_on_a_world_of_ours(cluster):
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
    from ray.tune.registry import register_env

    register_env("ours", lambda settings: ParallelPettingZooEnv(particle_spread_v0.parallel_env(agents=2)))
    config = (
        PPOConfig()
        .environment("ours")
        .multi_agent(policies={"all"}, policy_mapping_fn=lambda agent, episode, **settings: "all")
        .env_runners(num_env_runners=0)
        .training(train_batch_size_per_learner=100, minibatch_size=50, num_epochs=1)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[8]))
    )
    algorithm = config.build_algo()
    try:
        result = algorithm.train()
    finally:
        algorithm.stop()
    assert result["env_runners"]["num_env_steps_sampled"] >= 100
    assert np.isfinite(result["learners"]["all"]["total_loss"])
