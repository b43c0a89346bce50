"""The bridge: RLlib moves teams as rows, on any number of runners and learners, and nothing changes."""

import json

import numpy as np
import pytest
import torch
from learning import normalize_advantages, weights

from marlcomm.algorithms import MAPPO, IC3NetConfig, MADDPGConfig, MAPPOConfig
from marlcomm.checkpoint import read, write
from marlcomm.glossary import glossary
from marlcomm.registry import ConfigError
from marlcomm.rllib import checkpoint
from marlcomm.rllib.algorithm import TeamAlgorithm
from marlcomm.rllib.compat import RLlibCallback, check_version
from marlcomm.rllib.on_policy import OnPolicyLearner
from marlcomm.rllib.parcels import Parcel, fetch
from marlcomm.rllib.rows import (
    add_moments,
    epoch_rows,
    join,
    minibatches,
    moments,
    standardize_advantages,
)

pytestmark = pytest.mark.usefixtures("cluster")

CHANNELS = {
    "continuous": {},
    "silent": {},
    "ddcl": {"delta": 0.5},
    "vq": {"codebook_size": 8, "segments": 2},
    "ema": {"codebook_size": 8, "segments": 2, "update": "ema", "init": "kmeans", "replace_after": 1},
    "dvq": {"pool": [[1, 16], [2, 4]], "temperature_steps": 10_000, "normalization": "running"},
    "gumbel": {"vocabulary": 8, "tokens": 2},
    "sign": {},
}
SMALL = {"hidden_size": 16, "message_size": 4}
FALLING = [[0, 3e-3], [30_000, 0]]


def config(
    kind=MAPPOConfig, *, worlds=32, runners=0, learners=0, channel="ddcl", policy="transformer", log_dir, **training
):
    return (
        kind()
        .environment("traffic_junction", env_config={"add_rate": 0.4})
        .communication(
            policy=policy,
            policy_config=SMALL,
            channel={"ema": "vq"}.get(channel, channel),
            channel_config=CHANNELS[channel],
            imports=["third_party", "tiny_world"],
        )
        .training(**training)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=worlds // max(runners, 1))
        .learners(num_learners=learners)
        .logging(log_dir=log_dir)
        .debugging(seed=7)
    )


@pytest.fixture
def build(built):
    """Builds algorithms."""
    return lambda *arguments, **settings: built(config(*arguments, log_dir=None, **settings))


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max(initial=0)) for name in first)


# --- what is learned from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "policy", "channel"),
    [
        *[(MAPPOConfig, "transformer", channel) for channel in ("continuous", "silent", "ema", "dvq", "sign")],
        *[(IC3NetConfig, "ic3net", channel) for channel in ("ddcl", "ema", "gumbel")],
        *[(IC3NetConfig, "commnet", channel) for channel in ("ddcl", "silent")],
        (MAPPOConfig, "ic3net", "vq"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_where_agents_come_and_go_what_was_played_is_replayed(build, kind, policy, channel):
    algorithm = build(kind, policy=policy, channel=channel)
    before = weights(algorithm)
    for _ in range(2):
        algorithm.train()
        figures = algorithm.figures
        # A float's last bit is a symbol: a continuous message may be rounded otherwise in another matrix shape.
        assert channel == "continuous" or figures["replay/flipped_symbols"] < 1e-5
        assert figures["replay/ratio_error"] <= 1e-4
        assert figures["update/skipped"] == 0
    assert largest_difference(before, weights(algorithm)) > 0
    assert figures.keys() <= glossary("traffic_junction").keys()
    assert all(np.isfinite(value) for value in figures.values())
    shares = [figures[f"time/{part}"] for part in ("world", "policy", "update", "transfer")]
    assert sum(shares) == pytest.approx(1, abs=0.05)
    # Nobody hears anything under `silent`, gates included.
    if channel == "silent":
        assert figures["bandwidth/messages_per_agent_step"] == 0
        assert figures["bandwidth/prefix_bits_per_agent_step"] == 0


def test_remote_runners_play_and_evaluate_what_the_local_one_does(build):
    # 25 worlds of a runner need not divide into minibatches, as the 50 of both do.
    settings = {"worlds": 50, "optimizer": "sgd", "lr": 0.01, "num_epochs": 1, "num_minibatches": 2}
    local, remote = (build(runners=runners, **settings) for runners in (0, 2))
    assert largest_difference(weights(local), weights(remote)) == 0
    played, same = (join(fetch([sample.batch for sample in team._sample()])) for team in (local, remote))
    assert same.keys() == played.keys()
    for name, values in played.items():  # bit for bit; other sizes of matrices may round the last bit otherwise
        rounded = values.dtype == torch.float32 and name != "observations"
        assert torch.allclose(same[name], values, atol=1e-7) if rounded else torch.equal(same[name], values), name
    flipped = float((played["symbols"] != same["symbols"]).float().mean())
    assert flipped < 1e-5, f"{flipped:.2e} of the symbols are others"
    before = weights(local)
    for team in (local, remote):
        team.train()
    assert largest_difference(before, weights(local)) > 1e-4
    assert largest_difference(weights(local), weights(remote)) < 1e-5
    for name, value in local.figures.items():
        if name.startswith(("train/", "bandwidth/")):
            assert remote.figures[name] == pytest.approx(value, rel=1e-6), name
    assert largest_difference(weights(local), weights(remote)) < 1e-5
    # Short evaluations are of the learner's weights, too.
    here, there = (team.evaluate()["env_runners"] for team in (local, remote))
    assert there["success"] == here["success"]
    assert there["prefix_bits_per_message"] == pytest.approx(here["prefix_bits_per_message"], rel=1e-3)


def test_rounds_grow_as_they_are_told(build, monkeypatch):
    """Each world's episodes come one after the other, whoever plays them; minibatches stay as large as they were."""
    settings = {"worlds": 8, "num_minibatches": 2, "num_epochs": 1, "episodes": [[0, 1], [480, 4]]}
    local, remote = (build(runners=runners, **settings) for runners in (0, 2))
    sizes = []
    loss = OnPolicyLearner.compute_loss_for_module
    monkeypatch.setattr(
        OnPolicyLearner,
        "compute_loss_for_module",
        lambda self, *, batch, **more: sizes.append(len(batch["world"])) or loss(self, batch=batch, **more),
    )
    plays, played = local.env_runner.sample, []
    monkeypatch.setattr(local.env_runner, "sample", lambda **how: played.append(plays(**how)) or played[-1])
    for _ in range(3):  # 8 x 20 env steps, then 2 / 3 of the way
        local.train()
    episodes = [sample.batch["episode"].reshape(8, -1).tolist() for sample in played]
    assert episodes == [[[0]] * 8, [[1, 2]] * 8, [[3, 4, 5, 6]] * 8]
    assert all(sample.batch["world"].reshape(8, -1)[:, 0].tolist() == list(range(8)) for sample in played)
    assert sizes == [4] * (2 + 4 + 8)
    assert local.env_steps == 7 * 8 * 20
    for _ in range(2):
        remote.train()
    rows = join(fetch([sample.batch for sample in remote._sample()]))
    for name in ("world", "episode"):
        assert rows[name].tolist() == played[-1].batch[name].tolist()


def test_two_learners_equal_one(build):
    # A crash costs 10 points a step: unscaled, a step this long would leave nothing to compare but overflow.
    settings = {"optimizer": "sgd", "lr": 0.05, "num_epochs": 3, "num_minibatches": 2, "reward_scale": 0.01}
    teams = [build(learners=learners, **settings) for learners in (0, 2)]
    before = weights(teams[0])
    for _ in range(2):
        for team in teams:
            team.train()
    one, two = teams
    assert largest_difference(before, weights(one)) > 1e-3
    assert largest_difference(weights(one), weights(two)) < 1e-5
    for name, value in one.figures.items():
        if name.startswith(("loss/", "policy/", "channel/")):
            assert two.figures[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    # Rows of the training process are put where both learners find them, once for all epochs.
    sample = two._sample()[0]
    once = Parcel.of(sample.batch).bytes / sample.env_steps
    assert two.figures["transfer/bytes_per_env_step"] == pytest.approx(once, rel=0.2)


def test_two_learners_absorb_as_one(build):
    teams = [build(channel="ema", learners=learners, num_epochs=2, optimizer="sgd", lr=1e-4) for learners in (0, 2)]
    before = weights(teams[0])
    for _ in range(2):
        for team in teams:
            team.train()
    one, two = (weights(team) for team in teams)
    absorbed = "policy.channel.totals"
    assert np.abs(one[absorbed] - before[absorbed]).max() > 1e-3
    assert largest_difference(one, two) < 1e-3 * np.abs(one[absorbed]).max()


def test_rows_are_ordered_so_that_learners_share_minibatches():
    worlds = 24
    batch = {
        "world": torch.arange(worlds),
        "acts": torch.rand(worlds, 3, 2) < 0.5,
        "spoke": torch.rand(worlds, 3, 2) < 0.5,
        "running": torch.ones(worlds, 3, dtype=torch.bool),
    }
    one = epoch_rows(batch, 5, 3, 1, minibatches=4, learners=1)
    shards = [epoch_rows(batch, 5, 3, 1, minibatches=4, learners=2, learner=learner) for learner in (0, 1)]
    seen = []
    for whole, first, second in zip(minibatches(one, 4), *(minibatches(shard, 4) for shard in shards), strict=True):
        together = torch.cat([first["world"], second["world"]])
        assert set(whole["world"].tolist()) == set(together.tolist())
        for part in (whole, first, second):
            assert (part["agent_steps"] == whole["acts"].sum()).all()
            assert (part["messages"] == (whole["acts"] & whole["spoke"]).sum()).all()
            assert (part["env_steps"] == 18).all()
        seen += whole["world"].tolist()
    assert sorted(seen) == list(range(worlds))
    other = epoch_rows(batch, 5, 3, 2, minibatches=4, learners=1)
    assert not torch.equal(one["world"], other["world"])


def test_advantages_are_normalised_over_all_runners():
    generator = np.random.default_rng(0)
    parts = [
        {
            "advantages": generator.normal(3, 2, (4, 5, 2)).astype(np.float32),
            "acts": generator.uniform(size=(4, 5, 2)) < 0.7,
        }
        for _ in range(2)
    ]
    whole, batch = join(parts), join(parts)
    of = [moments(part["advantages"][part["acts"]]) for part in map(join, zip(parts))]
    standardize_advantages(batch, add_moments(of))
    normalize_advantages(whole)
    assert torch.allclose(batch["advantages"], whole["advantages"])
    acting = batch["advantages"][batch["acts"]]
    assert float(acting.mean()) == pytest.approx(0, abs=1e-5)
    assert float(acting.std(correction=0)) == pytest.approx(1, abs=1e-5)


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "policy", "channel", "training", "rounds"),
    [
        (MAPPOConfig, "transformer", "vq", {"entropy_coeff": 0.01, "reward_scale": 1.0, "lr": FALLING}, 60),
        (IC3NetConfig, "commnet", "ddcl", {"lr": 3e-3, "mean_ratio": 0.0}, 150),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_team_learns_to_say_what_the_other_cannot_see(build, tmp_path, kind, policy, channel, training, rounds):
    team = config(kind, worlds=128, policy=policy, channel=channel, log_dir=tmp_path, **training)
    team.environment("relay").evaluation(evaluation_duration=500).env_config = {}
    algorithm = team.build_algo()
    for _ in range(rounds):
        algorithm.train()
    figures = algorithm.evaluate()["env_runners"]
    algorithm.stop()
    assert figures["success"] > 0.95


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_continues_the_run_exactly_with_runners_and_learners(build, tmp_path):
    """As in one process (`test_resume.py`); also where two learners share the state that is loaded."""
    whole = build(channel="ema", runners=1, learners=2)
    for _ in range(2):
        whole.train()
    checkpoint.save(whole, tmp_path / "000002")
    undisturbed = two_more_rounds(whole)
    checkpoint.restore(whole, tmp_path / "000002")
    assert (whole.round, whole.env_steps) == (2, 2 * 32 * 20)
    now = two_more_rounds(whole)
    assert largest_difference(now[0], undisturbed[0]) == 0
    assert now[1] == undisturbed[1]
    assert [file.name for file in sorted((tmp_path / "000002").iterdir())] == [
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    ]


def two_more_rounds(team):
    """Weights and figures, but those of time."""
    for _ in range(2):
        team.train()
    return weights(team), {name: value for name, value in team.figures.items() if not name.startswith("time/")}


def test_rllibs_own_checkpoint_continues_too_and_saving_changes_nothing(build, tmp_path):
    whole, first = build(channel="vq"), build(channel="vq")
    for _ in range(2):
        first.train()
    checkpoint.save(first, tmp_path / "000002")
    first.save_to_path(tmp_path / "rllib")
    second = MAPPO.from_checkpoint(str(tmp_path / "rllib"))
    for team in (first, second):
        for _ in range(2):
            team.train()
    for _ in range(4):
        whole.train()
    assert (second.round, second.env_steps) == (4, whole.env_steps)
    for team in (first, second):
        assert largest_difference(weights(whole), weights(team)) == 0
    second.stop()


def test_checkpoints_of_another_team_are_refused(build, tmp_path):
    checkpoint.save(build(channel="ddcl"), tmp_path / "000000")
    with pytest.raises(ConfigError, match=r"of another policy or channel: they differ in .*policy\.channel\.codebook"):
        checkpoint.restore(build(channel="vq"), tmp_path / "000000")
    stored = read(tmp_path / "000000")
    wider = {name: np.zeros(99) if "value" in name else tensor for name, tensor in stored.read("weights").items()}
    write(tmp_path / "000001", dict(stored.counters), weights=wider, optimizer=stored.read("optimizer"))
    with pytest.raises(ConfigError, match=r"of another policy or channel: they differ in .*value"):
        checkpoint.restore(build(channel="ddcl"), tmp_path / "000001")


# --- RLlib's side -----------------------------------------------------------------------------------------------------


def test_results_carry_rllibs_names_and_ours(build):
    algorithm = build()
    result = algorithm.train()
    assert result["num_env_steps_sampled_lifetime"] == 32 * 20
    assert result["env_runners"]["episode_return_mean"] == pytest.approx(algorithm.figures["train/return"])
    assert result["team"]["bandwidth/prefix_bits_per_message"] == pytest.approx(
        algorithm.figures["bandwidth/prefix_bits_per_message"]
    )


def test_short_evaluations_draw_the_curve(tmp_path):
    algorithm = config(log_dir=tmp_path).evaluation(evaluation_interval=2, evaluation_duration=30).build_algo()
    first, second = algorithm.train(), algorithm.train()
    algorithm.stop()
    assert "evaluation" not in first
    assert 0 <= second["evaluation"]["env_runners"]["success"] <= 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "validation/success" not in lines[0]
    assert lines[1]["validation/prefix_bits_per_message"] > 0
    assert [line["env_steps"] for line in lines] == [640, 1280]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.env_runners(rollout_fragment_length=10), "rollout_fragment_length: not honoured for teams"),
        (lambda c: c.training(minibatch_size=10), "minibatch_size: not honoured .*num_minibatches"),
        (lambda c: c.env_runners(observation_filter="MeanStdFilter"), "observation_filter: not honoured"),
        (lambda c: c.multi_agent(policies={"a", "b"}, policy_mapping_fn=lambda *a: "a"), "polic.*: not honoured"),
        (lambda c: c.env_runners(env_to_module_connector=lambda *a: None), "env_to_module_connector: not honoured"),
        (lambda c: c.communication(channel="ddlc"), "did you mean 'ddcl'"),
        (lambda c: c.communication(channel_config={"delt": 1}), "channel.delt: unknown key"),
        (lambda c: c.communication(channel="vq", channel_config={"segments": 3}), "channel.segments: got 3"),
        (lambda c: c.environment("traffic_junktion"), "did you mean 'traffic_junction'"),
        (lambda c: c.environment(env=dict), "wanted the name of a registered env"),
        (lambda c: c.environment(env_config={"dificulty": 1}), "did you mean 'difficulty'"),
        (lambda c: c.training(gamma=2.0), "training.gamma: got 2.0"),
        (lambda c: c.env_runners(num_envs_per_env_runner=31), "num_envs_per_env_runner: got 31"),
        (lambda c: c.env_runners(num_gpus_per_env_runner=1), "num_gpus_per_env_runner: not honoured"),
        (lambda c: c.fault_tolerance(ignore_env_runner_failures=True), "ignore_env_runner_failures: not honoured"),
        (lambda c: c.rl_module(algorithm_config_overrides_per_module={"a": {"lr": 1.0}}), "overrides.*: not honoured"),
        (lambda c: c.api_stack(enable_env_runner_and_connector_v2=False), "connector_v2: not honoured"),
        (lambda c: c.training(model={"fcnet_hiddens": [8]}), "model: not honoured"),
        (lambda c: c.training(learner_class=int), "learner_class: got <class 'int'>, wanted TeamLearner"),
        (lambda c: c.env_runners(env_runner_cls=int), "env_runner_cls: got <class 'int'>, wanted TeamEnvRunner"),
        (lambda c: c.env_runners(num_env_runners=-1), "num_env_runners: got -1, wanted 0 or more"),
        (lambda c: c.evaluation(evaluation_config={"explore": False}), "evaluation_config: not honoured"),
        (lambda c: c.evaluation(custom_evaluation_function=print), "custom_evaluation_function: not honoured"),
        (lambda c: c.callbacks(on_episode_end=print), "callbacks: on_episode_end is not honoured for teams"),
        (lambda c: c.callbacks(EpisodeHooks), "callbacks: on_episode_start is not honoured for teams"),
        (lambda c: c.env_runners(sample_timeout_s=0), "sample_timeout_s: got 0, wanted seconds, more than 0"),
        (lambda c: c.debugging(seed=None), "seed: got None, wanted a valid integer"),
        (lambda c: c.debugging(seed=2**40), "seed: got 1099511627776, wanted less than 2147483648"),
        (lambda c: c.env_runners(num_env_runners="2"), "num_env_runners: got '2', wanted 0 or more"),
        (lambda c: c.communication(channel_config=None), "channel_config: got None, wanted settings by their names"),
        (lambda c: c.communication(imports="math"), r"imports=\.\.\.\): got 'math', wanted a list: \['math'\]"),
        (lambda c: MADDPGConfig().training(num_epochs=4), r"training\(num_epochs=\.\.\.\): unknown setting"),
    ],
)
def test_configs_that_cannot_be_honoured_are_refused(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        change(config(log_dir=tmp_path)).validate()


def test_unknown_training_settings_are_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"training\(entropy_coef=...\): unknown setting; did you mean 'entropy_coeff'"
    ):
        config(log_dir=tmp_path).training(train_batch_size=5, gamma=0.5, entropy_coef=0.1)


class EpisodeHooks(RLlibCallback):
    def on_episode_start(self, **kwargs):
        pass


def test_callbacks_of_the_algorithm_are_called(tmp_path):
    seen = []
    team = config(log_dir=tmp_path).callbacks(on_train_result=lambda *, result, **kwargs: seen.append(result))
    algorithm = team.build_algo()
    algorithm.train()
    algorithm.stop()
    assert [result["num_env_steps_sampled_lifetime"] for result in seen] == [640]


def test_gpus_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_gpus_per_learner: 2 learners need 2 GPUs, Ray has 0"):
        config(log_dir=tmp_path).learners(num_learners=2, num_gpus_per_learner=1).build_algo()


def test_too_few_cpus_are_counted_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"the trial itself \(1\), 6 env runners .* need 7 CPUs, Ray has 6"):
        MAPPO.default_resource_request(config(worlds=48, runners=6, log_dir=tmp_path))
    with pytest.raises(
        ConfigError, match=r"16 env runners \(16 CPUs\) and 2 learners \(2 CPUs\) need 18 CPUs, Ray has 6"
    ):
        config(worlds=64, runners=16, learners=2, log_dir=tmp_path).build_algo()


def test_tune_searches_inside_a_channels_config(tmp_path):
    from ray import tune

    team = config(log_dir=None).communication(channel_config={"delta": tune.grid_search([0.25, 1.0])})
    team.log_dir = None
    results = tune.Tuner(
        MAPPO,
        param_space=team,
        run_config=tune.RunConfig(
            stop={"num_env_steps_sampled_lifetime": 1280}, storage_path=str(tmp_path), name="search", verbose=0
        ),
    ).fit()
    assert not results.errors
    bits = {
        r.config["channel_config"]["delta"]: r.metrics["team"]["bandwidth/prefix_bits_per_message"] for r in results
    }
    assert bits.keys() == {0.25, 1.0}
    assert bits[0.25] > bits[1.0]
    for result in results:
        assert result.metrics["num_env_steps_sampled_lifetime"] == 1280
        assert list((tmp_path / "search").glob("*/tensorboard/events*"))


def test_only_the_known_ray_is_accepted():
    check_version("2.60.0")
    with pytest.raises(ImportError, match=r"works with ray 2.60.\*, found 2.61.0"):
        check_version("2.61.0")


def test_an_algorithm_is_rllibs():
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    assert issubclass(TeamAlgorithm, Algorithm)
    assert isinstance(MAPPOConfig(), AlgorithmConfig)
    assert MAPPO.get_default_config().algo_class is MAPPO
