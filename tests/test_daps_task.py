"""Mode `task` of daps: credit for messages, from the objective of those who heard them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import normalize_advantages
from torch import nn

from marlcomm import noise
from marlcomm.algorithms import MAPPOConfig
from marlcomm.channels import Channel, Search
from marlcomm.channels.daps import DAPSChannel
from marlcomm.channels.settings import DAPSSettings
from marlcomm.envs import TeamEnv, TeamSpec, TeamStep
from marlcomm.glossary import glossary
from marlcomm.objectives.base import channel_loss
from marlcomm.objectives.credit import message_credit
from marlcomm.objectives.ppo import PPO
from marlcomm.objectives.reinforce import Reinforce
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.policies.settings import PolicySettings
from marlcomm.policies.team import TeamNames, make_channel
from marlcomm.registry import ConfigError
from marlcomm.rllib.rows import epoch_rows
from marlcomm.wire import Alphabet

PPO_OBJECTIVE = PPO(1.0, 1.0, 0.2, 0.5, Schedule.of(0.01), 1.0, 0.0)
REINFORCE_OBJECTIVE = Reinforce(1.0, 0.0, 0.5, Schedule.of(0.0), 1.0)


# --- by hand ---------------------------------------------------------------------------------------------------------


class Coin(Channel):
    """-1 or 1 is heard, and both are always judged."""

    differentiable = False
    wants_credit = True

    def alphabet(self):
        return Alphabet.fixed([2])

    def encode(self, messages, noise=None):
        return (messages > 0).to(torch.int32)

    def decode(self, symbols, noise=None):
        return 2.0 * symbols - 1.0

    def surrogate(self, messages, noise=None):
        return messages.detach()

    def search(self, messages, symbols, noise=None):
        both = torch.tensor([[-1.0], [1.0]]).expand(*messages.shape[:-1], 2, 1)
        return Search(both, {"chance": torch.cat([torch.sigmoid(-messages), torch.sigmoid(messages)], -1)})

    def credited_losses(self, search, credit=None):
        chance = search.terms["chance"]
        rewards = -chance.detach().log() if credit is None else credit - chance.detach().log()
        return {"search": -(chance * rewards).sum(-1)}

    def loss_weights(self):
        return {"search": 1.0}


class Adder(TeamPolicy):
    """An agent's state is what it sees, half of what it was, and all it hears; its logit for action 0 is that."""

    gated = True

    def __init__(self, spec, channel):
        super().__init__(spec, PolicySettings(message_size=channel.message_size), channel)
        self.ear = nn.Parameter(torch.ones(()))

    def see(self, observations):
        return observations

    def begin(self, worlds):
        return {"state": torch.zeros(worlds, self.spec.num_agents, 1)}

    def say(self, features, memory):
        return features

    def hear(self, features, memory, received, audible, alive):
        state = features + 0.5 * memory["state"] + self.ear * audible.float() @ received
        return state, {"state": state}

    def decide(self, states):
        zero = torch.zeros_like(states)
        return torch.cat([states, zero], -1), torch.cat([2 * states, zero], -1), states.squeeze(-1)


YES, NO = True, False
SEEN = [[0.5, -0.2, 0.1], [-0.3, 0.4, 0.6]]
ALIVE = [[YES, YES, YES], [YES, YES, NO]]
GATES = [[YES, YES, NO], [YES, YES, YES]]
ACTIONS = [[0, 1, 1], [1, 0, 0]]
CHOICES = [[YES, NO, YES], [NO, YES, YES]]
OLD = [[-1.2, -3.0, -2.5], [-1.0, -2.2, -0.7]]
ADVANTAGES = [[1.0, -2.0, 0.5], [3.0, -1.0, 9.0]]


def case():
    """One world, two steps and three agents: its inputs and its rows."""
    seen, alive, gates = (torch.tensor([values]) for values in (SEEN, ALIVE, GATES))
    moment = Moment(seen.unsqueeze(-1), alive, torch.zeros_like(alive), gates)
    batch = {
        "acts": alive,
        "actions": torch.tensor([ACTIONS]),
        "gate_choices": torch.tensor([CHOICES]),
        "log_probs": torch.tensor([OLD]),
        "advantages": torch.tensor([ADVANTAGES]),
        "running": torch.ones(1, 2, dtype=torch.bool),
        "messages": torch.tensor([4.0]),
    }
    return moment, batch


def worked(gain):
    """J [T][sender][sample] in plain numbers, where an agent's gain follows from its log-probability."""

    def heard_by(agent, time, words):
        senders = [j for j in range(3) if j != agent and ALIVE[time][j] and GATES[time][j]]
        return sum(words[j] for j in senders)

    def log_sigmoid(x):
        return -math.log1p(math.exp(-x))

    memory, credit = [0.0] * 3, []
    for time in range(2):
        said = [1.0 if seen > 0 else -1.0 for seen in SEEN[time]]
        before = [SEEN[time][i] + 0.5 * memory[i] for i in range(3)]

        def worth(sender, word, time=time, said=said, before=before):
            if not (ALIVE[time][sender] and GATES[time][sender]):
                return 0.0
            words, total = [*said[:sender], word, *said[sender + 1 :]], 0.0
            for agent in range(3):
                if agent != sender and ALIVE[time][agent]:
                    state = before[agent] + heard_by(agent, time, words)
                    log_p = log_sigmoid(state if ACTIONS[time][agent] == 0 else -state)
                    log_p += log_sigmoid(-2 * state if CHOICES[time][agent] else 2 * state)
                    total += gain(log_p, OLD[time][agent], ADVANTAGES[time][agent])
            return total

        credit.append([[worth(sender, word) for word in (-1.0, 1.0)] for sender in range(3)])
        memory = [before[i] + heard_by(i, time, said) for i in range(3)]
    return credit


def clipped(log_p, old, advantage):
    ratio = math.exp(log_p - old)
    return min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)


@pytest.fixture
def adder():
    return Adder(TeamSpec("sums", 3, 1, 2, 2, setting="sums"), Coin(1))


@pytest.mark.parametrize(
    ("objective", "gain"),
    [(PPO_OBJECTIVE, clipped), (REINFORCE_OBJECTIVE, lambda log_p, old, advantage: log_p * advantage)],
    ids=["ppo", "reinforce"],
)
def test_credit_by_hand(adder, objective, gain):
    """One sender at a time is heard otherwise, by the living, where its gate is open; memory is of what was said."""
    moment, batch = case()
    credit = message_credit(adder, objective, batch, adder(moment).talk)
    assert credit.shape == (1, 2, 3, 2)
    assert torch.allclose(credit, torch.tensor([worked(gain)]), atol=1e-5)
    assert not credit[0, 0, 2].any()  # its gate was shut
    assert not credit[0, 1, 2].any()  # it was dead
    assert (credit[0, :, :2].std(-1) > 0.05).all()


def test_credit_is_a_number_that_trains_the_sender_alone(adder):
    moment, batch = case()
    seen = moment.observations.requires_grad_()
    talk = adder(replace(moment, observations=seen)).talk
    credit = message_credit(adder, PPO_OBJECTIVE, batch, talk)
    assert not credit.requires_grad
    loss = channel_loss(adder.channel, talk, batch["acts"], batch["messages"][0], credit)
    sent, receivers = torch.autograd.grad(loss.total, [seen, adder.ear], allow_unused=True)
    assert receivers is None
    # -sum of q (J - log q) / 4 messages, log q being constant; q is the sigmoid of what is seen
    chance = torch.sigmoid(seen).detach()
    rewards = credit[..., 1:] - credit[..., :1] - seen.detach()
    heard = (batch["acts"] & moment.gates).unsqueeze(-1)
    assert torch.allclose(sent, -chance * (1 - chance) * rewards * heard / 4, atol=1e-6)
    spread = (credit[..., 0] - credit[..., 1]).abs() / 2
    assert loss.stats["channel/credit"].item() == pytest.approx(spread.sum().item() / 4)


def test_without_credit_nobody_is_asked(adder):
    moment, batch = case()
    adder.channel.wants_credit = False
    talk = adder(moment).talk
    assert talk.search is None
    assert talk.hearing is None
    assert message_credit(adder, PPO_OBJECTIVE, batch, talk) is None
    adder.channel.wants_credit = True
    with torch.no_grad():
        assert adder(moment).talk.hearing is None


# --- on the policies -------------------------------------------------------------------------------------------------


def team(policy, **channel):
    settings = {"hidden_size": 16, "message_size": 8} | ({"width": 8} if policy == "transformer" else {})
    tokens = {"vocabulary": 4, "samples": 3, "effective_share": 0.5, "decoder_size": 16}
    names = TeamNames("traffic_junction", {"add_rate": 0.5}, policy, settings, "daps", tokens | channel)
    env = names.make_env()
    return env, names.make_policy(env, seed=0)


def played(env, policy, worlds=12):
    """A rollout's rows, and the inputs of its replay."""
    rollout = Player(env, policy, seed=0).play(torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64))
    batch = PPO_OBJECTIVE.columns(rollout)
    messages = (batch["spoke"] & batch["acts"]).sum().float()
    return batch | {"messages": messages.expand(worlds)}, replayed(policy, batch, seed=0)


def replayed(policy, batch, seed):
    draws = channel_noise(policy.channel, seed, "train", batch["world"], batch["episode"], *batch["acts"].shape[1:])
    return Moment(batch["observations"], batch["alive"], batch["spawned"], batch.get("gates"), draws)


POLICIES = ["transformer", "ic3net", "commnet"]


@pytest.mark.parametrize("policy_name", POLICIES)
def test_what_was_heard_is_worth_what_it_was(policy_name):
    """The first sample is the one on the wire, so J of it is the executed objective of those who heard the sender."""
    env, policy = team(policy_name, mode="task")
    batch, moment = played(env, policy)
    decision = policy(moment)
    credit = message_credit(policy, PPO_OBJECTIVE, batch, decision.talk)
    gain = (PPO_OBJECTIVE.gain(batch, decision) * batch["acts"]).detach()
    others = gain.sum(-1, keepdim=True) - gain
    sent = batch["spoke"] & batch["acts"]
    assert sent.any()
    assert torch.allclose(credit[..., 0], others * sent, atol=1e-4)
    assert (credit[sent].std(-1) > 0).double().mean() > 0.1


@pytest.mark.parametrize("policy_name", POLICIES)
def test_credit_neither_changes_what_is_heard_nor_trains_receivers(policy_name):
    env, grounded = team(policy_name)
    _, tasked = team(policy_name, mode="task")
    assert all(map(torch.equal, grounded.state_dict().values(), tasked.state_dict().values()))
    batch, moment = played(env, grounded)
    again, _ = played(env, tasked)
    assert torch.equal(batch["symbols"], again["symbols"])
    before, after = grounded(moment), tasked(moment)
    for name in ("logits", "values"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    credit = message_credit(tasked, PPO_OBJECTIVE, batch, after.talk)
    loss = channel_loss(tasked.channel, after.talk, batch["acts"], batch["messages"][0], credit)
    heads = [weight for name, weight in tasked.named_parameters() if "head" in name]
    found = torch.autograd.grad(loss.total, heads, allow_unused=True)
    assert len(heads) >= 4
    assert all(gradient is None or not gradient.any() for gradient in found)


SHARED = "channel.slow_log_eta"


@pytest.mark.parametrize("loss", ["daps", "ppo"])
def test_without_weight_the_task_is_nothing(loss):
    """With task_weight 0 the losses are those of grounding, bit for bit; with a weight the search alone differs.

    So are gradients, but for that of the one number that all messages share, whose sum rounds otherwise on some
    processors.
    """
    found = {}
    for name, settings in {"grounding": {}, "none": {"task_weight": 0.0}, "some": {"task_weight": 1.0}}.items():
        mode = "grounding" if name == "grounding" else "task"
        env, policy = team("transformer", mode=mode, encoder_loss=loss, bit_cost=0.01, **settings)
        batch, moment = played(env, policy)
        talk = policy(moment).talk
        credit = message_credit(policy, PPO_OBJECTIVE, batch, talk)
        total = channel_loss(policy.channel, talk, batch["acts"], batch["messages"][0], credit)
        weights = dict(policy.named_parameters())
        gradients = torch.autograd.grad(total.total, list(weights.values()), allow_unused=True)
        found[name] = total.stats, {key: x for key, x in zip(weights, gradients, strict=True) if x is not None}
    stats, gradients = found["grounding"]
    assert found["none"][0].pop("channel/credit") > 0
    assert found["none"][0] == stats
    assert found["none"][1].keys() == gradients.keys()
    differ = {key for key, x in gradients.items() if not torch.equal(found["none"][1][key], x)}
    assert differ <= {SHARED}
    assert SHARED not in gradients or torch.allclose(found["none"][1][SHARED], gradients[SHARED], rtol=1e-6, atol=0)
    changed = {name for name, value in found["some"][0].items() if value != stats.get(name)}
    # PPO's advantages have mean zero, so credit changes its first loss by rounding alone, but its gradient
    assert changed - {"channel/search", "channel/trust"} == {"channel/credit"}
    assert not all(torch.allclose(found["some"][1][key], x) for key, x in gradients.items() if key != SHARED)


def test_the_reward_is_the_weighted_sum():
    torch.manual_seed(0)
    settings = {"samples": 4, "vocabulary": 6, "beta": 0.1, "eta": 0.7}
    messages, draws, credit = torch.randn(5, 4), torch.rand(5, 1), torch.randn(5, 4)
    plain = DAPSChannel(4, DAPSSettings(**settings))
    fit = plain.search(messages, plain.encode(messages, draws), draws).terms["rewards"]
    channel = DAPSChannel(4, DAPSSettings(mode="task", fit_weight=0.5, task_weight=2.0, **settings))
    channel.load_state_dict(plain.state_dict())
    search = channel.transmit(messages, draws).search
    log_q = search.terms["log_q"]
    weights = torch.softmax((0.5 * fit + 2 * credit - 0.1 * log_q) / (0.7 + 0.1), -1).detach()
    assert torch.allclose(channel.credited_losses(search, credit)["search"], -(weights * log_q).sum(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fit_weight": 0.0}, r"fit_weight: got 0, wanted more than 0 .*nearest: fit_weight 1"),
        (
            {"fit_weight": 0.0, "mode": "task", "task_weight": 0.0},
            r"fit_weight: got 0, wanted more than 0 .*nearest: task_weight 3",
        ),
        ({"mode": "value"}, r"channel.mode: got 'value', wanted 'grounding' or 'task'"),
        ({"mode": "task", "task_weight": -1.0}, r"channel.task_weight: got -1"),
    ],
)
def test_settings_that_reward_nothing_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        make_channel("daps", settings, 8)
    assert make_channel("daps", {"mode": "task", "fit_weight": 0.0}, 8).wants_credit


# --- what is learned -------------------------------------------------------------------------------------------------

WIDTH = 7


class Bandit(TeamEnv):
    """A speaker sees six numbers that are nearly one, and a small bit; a listener is to name the bit."""

    def __init__(self):
        super().__init__()
        slots = {"speakers": (True, False), "actors": (False, True)}
        self.spec = TeamSpec("bandit", 2, WIDTH, 2, 1, setting="bandit", **slots)

    def _begin(self, episodes):
        draws = noise.uniform(self.keys, WIDTH + 1)
        normal = math.sqrt(2) * torch.erfinv(2 * draws - 1)
        self.bit = (draws[:, -1] > 0.5).long()
        loud = 3 * (normal[:, :1] + 0.3 * normal[:, 1:WIDTH])
        self.seen = torch.cat([loud, 0.1 * (2.0 * self.bit.unsqueeze(1) - 1)], 1)
        return self._now(torch.zeros(self.num_worlds))

    def _advance(self, actions):
        return self._now((actions[:, 1] == self.bit).float())

    def _now(self, rewards):
        both = torch.ones(self.num_worlds, 2, dtype=torch.bool)
        return TeamStep(
            observations=torch.stack([self.seen, torch.zeros_like(self.seen)], 1),
            rewards=rewards.unsqueeze(1).expand(-1, 2),
            alive=both,
            spawned=~both,
            terminated=self._at_horizon(),
            truncated=torch.zeros(self.num_worlds, dtype=torch.bool),
            info={"success": rewards},
        )


class Listener(TeamPolicy):
    """What is said is what is seen: relevance can enter by way of the tokens alone."""

    def __init__(self, spec, channel):
        super().__init__(spec, PolicySettings(message_size=WIDTH), channel)
        self.trunk = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU())
        self.heads = nn.Linear(16, 3)

    def see(self, observations):
        return observations

    def begin(self, worlds):
        return {}

    def say(self, features, memory):
        return features

    def hear(self, features, memory, received, audible, alive):
        return self.trunk(audible.float() @ received), {}

    def decide(self, states):
        logits, values = self.heads(states).split([2, 1], -1)
        return logits, None, values.squeeze(-1)


def learn(mode, seed, rounds=50, worlds=256):
    """How often the listener is right in the end, where a message is one of two tokens."""
    torch.manual_seed(seed)
    env = Bandit()
    settings = {"vocabulary": 2, "sender": "factorised", "samples": 4, "beta": 0.02, "decoder_size": 16}
    policy = Listener(env.spec, DAPSChannel(WIDTH, DAPSSettings(mode=mode, **settings)))
    player, numbers = Player(env, policy, seed), torch.arange(worlds)
    policy.channel.calibrate(env.reset(seed, numbers, numbers).observations[:, 0])
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
    successes = []
    for number in range(rounds):
        rollout = player.play(numbers, torch.full_like(numbers, number))
        successes.append(rollout.info["success"].mean().item())
        batch = PPO_OBJECTIVE.columns(rollout)
        normalize_advantages(batch)
        batch = epoch_rows(batch, seed, number, 0, 1, 1)
        for _ in range(3):
            decision = policy(replayed(policy, batch, seed))
            loss = PPO_OBJECTIVE.loss(batch, decision, 0).total
            credit = message_credit(policy, PPO_OBJECTIVE, batch, decision.talk)
            rate = channel_loss(policy.channel, decision.talk, batch["acts"], batch["messages"][0], credit)
            optimizer.zero_grad()
            (loss + rate.total).backward()
            optimizer.step()
        policy.channel.after_update(number)
    return sum(successes[-5:]) / 5


def test_messages_carry_what_matters_where_it_is_rewarded():
    """One bit for seven numbers: grounding spends it on the six that are alike, the task on the one that is needed."""
    assert max(learn("grounding", seed) for seed in (0, 1)) < 0.6
    assert min(learn("task", seed) for seed in (0, 1, 2)) > 0.85


@pytest.mark.usefixtures("cluster")
def test_it_trains_in_a_run(tmp_path):
    config = (
        MAPPOConfig()
        .environment("relay")
        .communication(
            policy_config={"hidden_size": 16, "message_size": 4, "width": 8},
            channel="daps",
            channel_config={"mode": "task", "vocabulary": 4, "samples": 4, "decoder_size": 16},
            imports=["tiny_world"],
        )
        .env_runners(num_env_runners=0, num_envs_per_env_runner=32)
        .learners(num_learners=0)
        .logging(log_dir=tmp_path)
    )
    algorithm = config.build_algo()
    try:
        for _ in range(2):
            algorithm.train()
            figures = algorithm.figures
            assert figures["channel/credit"] > 0
            assert figures["replay/flipped_symbols"] < 1e-5
            assert figures["replay/ratio_error"] <= 1e-4
            assert figures["update/skipped"] == 0
        assert figures.keys() <= glossary("relay").keys()
        assert all(np.isfinite(value) for value in figures.values())
    finally:
        algorithm.stop()
