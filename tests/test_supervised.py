"""Learning what a world says is right: labels, the loss by hand, gradients, learning, runs, and who is refused."""

import math
import re

import numpy as np
import pytest
import tiny_world  # noqa: F401 (registers its worlds)
import torch
from learning import replayed, weights
from test_lewis_game import TINY, lewis, start
from test_objectives import NO, YES, decision

from marlcomm import config
from marlcomm.algorithms import IC3NetConfig, MAPPOConfig, SupervisedConfig
from marlcomm.algorithms.build import algorithm_config
from marlcomm.envs.base import NO_LABEL
from marlcomm.envs.check import check_env
from marlcomm.envs.lewis_game.world import RECEIVER, SENDER, LewisGame
from marlcomm.glossary import glossary
from marlcomm.objectives.base import channel_loss, taught
from marlcomm.objectives.credit import message_credit
from marlcomm.objectives.supervised import CrossEntropy
from marlcomm.policies.evaluation import evaluate_script
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ENVS, ConfigError
from marlcomm.rllib.rows import epoch_rows, minibatches

GAME = TINY | {"training_rounds": 2000}
SMALL = {"core": "feedforward", "hidden_size": 64, "message_size": 32, "candidate_size": 32}
TOKENS = {"tokens": 2, "vocabulary": 12, "sender": "autoregressive", "sender_size": 32}
CHANNELS = {
    "gumbel": TOKENS,
    "gr_mck": TOKENS | {"temperature": 1.0},
    "daps": TOKENS | {"mode": "task"},
    "vq": {"segments": 2, "codebook_size": 12},
    "ddcl": {},
    "continuous": {},
}


def names(channel="gumbel", game=None, policy="commnet", **policy_settings):
    game = GAME if game is None else game
    return TeamNames("lewis_game", game, policy, SMALL | policy_settings, channel, CHANNELS.get(channel, {}))


def team(*arguments, **settings):
    parts = names(*arguments, **settings)
    env = parts.make_env()
    return env, parts.make_policy(env, seed=0)


def rows(env, policy, objective, worlds=40, parts=1):
    everyone = torch.arange(worlds)
    played = Player(env, policy, 0).play(everyone, torch.zeros_like(everyone))
    return epoch_rows(objective.columns(played), 0, 0, 0, minibatches=parts, learners=1)


# --- what is right ----------------------------------------------------------------------------------------------------


def test_the_target_is_right_where_the_choice_counts():
    env = lewis(**TINY, steps=2)
    first = start(env, 30)
    assert (first.labels == NO_LABEL).all()
    second = env.step(torch.zeros(30, 2, dtype=torch.int64))
    assert (second.labels[:, SENDER] == NO_LABEL).all()
    assert torch.equal(second.labels[:, RECEIVER], env.target)
    last = env.step(second.labels.clamp(min=0))
    assert last.info["success"].all()
    assert (last.labels == NO_LABEL).all()


def test_a_rollout_keeps_labels_with_the_steps_they_are_for():
    env, policy = team(game=GAME | {"steps": 3}, core="lstm")
    worlds = torch.arange(20)
    played = Player(env, policy, 0).play(worlds, torch.zeros_like(worlds))
    assert played.labels.shape == (20, 3, 2)
    found = played.actions[:, -1, RECEIVER] == played.labels[:, -1, RECEIVER]
    assert torch.equal(found.float(), played.info["success"])
    sprint = TeamNames("sprint", {}, "commnet", SMALL, "ddcl", {})
    env = sprint.make_env()
    assert Player(env, sprint.make_policy(env, 0), 0).play(worlds, torch.zeros_like(worlds)).labels is None


class OutOfRange(LewisGame):
    def _labels(self):
        return super()._labels() + 1 + self.spec.num_actions


class Wordless(LewisGame):
    labelled = False


@pytest.mark.parametrize(
    ("world", "problem"),
    [
        (LewisGame, None),
        (OutOfRange, "wanted one of its 6 actions, or -1 where none is right"),
        (Wordless, "labels are given at the reset, and the world is not labelled"),
    ],
)
def test_the_contract_of_labels(world, problem):
    settings = ENVS.check("lewis_game", TINY)
    findings = {finding.promise: finding.problem for finding in check_env(lambda: world(settings))}
    found = findings["labels are actions, and there where the world is labelled"]
    assert found is None if problem is None else problem in found


# --- the loss ---------------------------------------------------------------------------------------------------------

BATCH = {
    "acts": torch.tensor([[[YES, YES], [YES, NO]]]),
    "labels": torch.tensor([[[0, 1], [NO_LABEL, 1]]]),
    "label_count": torch.tensor([2.0]),
}
ANSWER = ([[[[0.8, 0.2], [0.6, 0.4]], [[0.3, 0.7], [0.1, 0.9]]]], [[[0.0, 0.0], [0.0, 0.0]]])


def test_the_cross_entropy_by_hand():
    answer = decision(*ANSWER)
    loss = CrossEntropy().loss(BATCH, answer, 0)
    expected = -(math.log(0.8) + math.log(0.4)) / 2
    assert loss.total.item() == pytest.approx(expected, rel=1e-6)
    assert loss.stats["loss/cross_entropy"].item() == pytest.approx(expected, rel=1e-6)
    assert loss.stats["policy/accuracy"].item() == 0.5
    loss.total.backward()
    # softmax less one-hot, over two labels; nothing where there is no label, or nobody acts
    assert answer.logits.grad[0, 0].tolist() == [pytest.approx([-0.1, 0.1]), pytest.approx([0.3, -0.3])]
    assert not answer.logits.grad[0, 1].any()
    gain = CrossEntropy().gain(BATCH, answer)[0]
    assert gain[0].tolist() == pytest.approx([math.log(0.8), math.log(0.4)])
    assert gain[1].tolist() == [0.0, 0.0]


def test_nobody_taught_is_no_loss():
    batch = BATCH | {"labels": torch.full((1, 2, 2), NO_LABEL), "label_count": torch.tensor([0.0])}
    assert CrossEntropy().loss(batch, decision(*ANSWER), 0).total.item() == 0.0


def test_minibatches_know_how_many_labels_they_hold():
    env, policy = team(game=GAME | {"steps": 2}, core="lstm")
    batch = rows(env, policy, CrossEntropy(), parts=4)
    assert "advantages" not in batch
    for part in minibatches(batch, 4):
        assert taught(part).sum() == part["label_count"][0] == 10
        assert part["agent_steps"][0] == 2 * 20


POLICIES = {
    "commnet": SMALL | {"parameters": "per_agent"},
    "transformer": {"recurrent": False, "parameters": "per_agent", "message_size": 32},
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channel", [*CHANNELS, "silent"])
def test_what_the_receiver_should_have_chosen_moves_the_sender(policy, channel):
    """By its gradient through the channel, or as credit for samples (`daps`); and not under `silent`."""
    parts = TeamNames("lewis_game", GAME, policy, POLICIES[policy], channel, CHANNELS.get(channel, {}))
    env = parts.make_env()
    agents = parts.make_policy(env, seed=0)
    objective = CrossEntropy()
    batch = rows(env, agents, objective)
    answer = replayed(agents, batch)
    credit = message_credit(agents, objective, batch, answer.talk)
    rate = channel_loss(agents.channel, answer.talk, batch["acts"], batch["messages"][0], credit)
    (objective.loss(batch, answer, 0).total + rate.total).backward()
    sender, receiver = (dict(agents.groups[slot].named_parameters()) for slot in (SENDER, RECEIVER))
    assert bool(sender["to_message.weight"].grad is not None and sender["to_message.weight"].grad.any()) == (
        channel != "silent"
    )
    assert receiver["action_head.weight"].grad.any()
    assert receiver["value_head.weight"].grad is None


# --- learning ---------------------------------------------------------------------------------------------------------

LEARNERS = {  # the algorithm, worlds, rounds, success, and how it is trained
    "supervised": (SupervisedConfig, 128, 100, 0.5, {"lr": 5e-3, "num_minibatches": 4}),
    "reinforce": (
        IC3NetConfig,
        256,
        250,
        0.42,
        {"optimizer": "adam", "lr": [[0, 5e-3], [250 * 256, 1e-4]], "grad_clip": 0.5, "reward_scale": 2.0}
        | {"mean_ratio": 0.0, "vf_loss_coeff": 0.5, "entropy_coeff": 0.03},
    ),
}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_team_learns_a_tiny_game(built, learner):
    """No silent team is better than the script: to who hears nothing, candidates that may be the target are alike."""
    kind, worlds, rounds, wanted, training = LEARNERS[learner]
    config = kind().environment("lewis_game", env_config=GAME).training(**training)
    config.communication(policy="commnet", policy_config=SMALL, channel="gumbel", channel_config=TOKENS)
    algorithm = built(config.env_runners(num_env_runners=0, num_envs_per_env_runner=worlds))
    for _ in range(rounds):
        algorithm.train()
    env = algorithm.env_runner.evaluation_env
    best_silent = evaluate_script(env, env.scripts()["silent"], 0, 2000)["success"]
    success = algorithm.env_runner.evaluate(2000, stream="evaluation", greedy=True)["success"]
    assert success > wanted > best_silent + 0.05


# --- whole runs -------------------------------------------------------------------------------------------------------


def small(kind, **settings):
    policy = SMALL | {"hidden_size": 16, "message_size": 8, "candidate_size": 8, "force_gate_open": True}
    return (
        kind()
        .environment("lewis_game", env_config=GAME)
        .communication(policy="ic3net", policy_config=policy, channel="gumbel", channel_config=TOKENS)
        .training(num_minibatches=2, **settings)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=24)
    )


@pytest.mark.parametrize("kind", [SupervisedConfig, IC3NetConfig, MAPPOConfig])
def test_labels_and_rewards_train_by_rllib(built, cluster, kind):
    algorithm = built(small(kind))
    before = weights(algorithm)
    for _ in range(2):
        algorithm.train()
    figures = algorithm.figures
    assert figures["replay/flipped_symbols"] == 0
    assert figures["replay/ratio_error"] <= 1e-4
    assert figures.keys() <= glossary("lewis_game").keys()
    assert ("loss/cross_entropy" in figures) == (kind is SupervisedConfig)
    assert ("loss/value" in figures) == (kind is not SupervisedConfig)
    changed = {name for name, value in weights(algorithm).items() if not np.array_equal(value, before[name])}
    assert ("policy.value_head.weight" in changed) == (kind is not SupervisedConfig)
    assert {"policy.channel.sender.to_logits.weight", "policy.to_message.weight"} <= changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: SupervisedConfig().environment("traffic_junction"),
            "wanted a world that says which action is right, for algorithm supervised to teach it: lewis_game",
        ),
        (
            lambda c: c.environment(env_config=GAME | {"steps": 2}).communication(policy_config=SMALL),
            "policy.force_gate_open: got False, wanted True: under algorithm supervised",
        ),
        (lambda c: c.training(entropy_coeff=0.1), "training(entropy_coeff=...): unknown setting"),
    ],
)
def test_what_cannot_be_taught_is_refused(change, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        change(small(SupervisedConfig)).validate()


def test_the_configs_recipe_and_its_overrides(pytestconfig):
    file = pytestconfig.rootpath / "configs/lewis_game.yaml"
    rewards = [line for line in file.read_text().splitlines() if line.startswith("# Rewards only: ")]
    overrides = rewards[0].removeprefix("# Rewards only: ").split()
    for given, kind in (([], SupervisedConfig), (overrides, IC3NetConfig), (["algorithm.name=mappo"], MAPPOConfig)):
        data, _ = config.read(file, given)
        algorithm = algorithm_config(config.experiment(data))
        assert type(algorithm) is kind
        algorithm.validate()
