"""TarMAC: targeted attention by hand; several rounds of talk at a step, each on the wire, counted and decoded."""

import math
from dataclasses import replace

import pytest
import tiny_world  # noqa: F401 (registers worlds)
import torch
from learning import replayed, train

from marlcomm.analysis.trace import _hash, prove, record
from marlcomm.objectives.base import channel_loss, sent_messages
from marlcomm.objectives.reinforce import Reinforce
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.coding import frozen_code
from marlcomm.policies.evaluation import evaluate
from marlcomm.policies.metering import TalkMeter
from marlcomm.policies.records import Moment, Talk, each_talk
from marlcomm.policies.rollout import Player, channel_noise, noise_of_talks
from marlcomm.policies.tarmac import TargetedAttention
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError
from marlcomm.rllib.on_policy import _compare
from marlcomm.rllib.rows import epoch_rows
from marlcomm.wire.bits import WireError

SMALL = {"hidden_size": 8, "key_size": 3, "message_size": 7}
CODED_DDCL = {"delta": 0.2, "dither_levels": 64, "code": "dither_conditional"}


def team(rounds=1, channel="continuous", channel_config=None, env="traffic_junction", policy="tarmac", **settings):
    env_config = {"add_rate": 0.5} if env == "traffic_junction" else {}
    policy_config = (SMALL if policy == "tarmac" else {"hidden_size": 8}) | {"rounds": rounds} | settings
    names = TeamNames(env, env_config, policy, policy_config, channel, channel_config or {})
    names.check()
    env = names.make_env()
    return env, names.make_policy(env, seed=0)


def rollout(env, policy, worlds=16, **options):
    return Player(env, policy, seed=0).play(torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64), **options)


def reinforce(**changes):
    settings = {"gamma": 1.0, "mean_ratio": 0.0, "value_weight": 0.1, "reward_scale": 1.0}
    return Reinforce(**(settings | {"entropy_weight": Schedule.of(0.02)} | changes))


# --- attention -------------------------------------------------------------------------------------------------------


def test_attention_by_hand():
    """Keys of width 4, so scores are halved: 2 log 3 / 2 against 0 is 3 to 1."""
    queries = torch.zeros(1, 3, 4)
    queries[0, 0, 0] = 2 * math.log(3.0)
    keys = torch.zeros(1, 3, 4)
    keys[0, 1, 0] = 1.0
    values = torch.tensor([[[100.0, 100.0], [4.0, 0.0], [0.0, 8.0]]])
    audible = torch.tensor([[[False, True, True], [True, False, False], [False, False, False]]])
    heard, weights = TargetedAttention()(queries, keys, values, audible)
    assert torch.allclose(weights, torch.tensor([[[0, 0.75, 0.25], [1, 0, 0], [0, 0, 0]]]))
    assert torch.allclose(heard, torch.tensor([[[3.0, 2.0], [100.0, 100.0], [0.0, 0.0]]]))


def test_who_hears_nobody_hears_zeros_and_has_a_gradient():
    queries, keys, values = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(3))
    nobody = torch.zeros(2, 3, 3, dtype=torch.bool)
    heard, _ = TargetedAttention()(queries, keys, values, nobody)
    assert not heard.any()
    gradients = torch.autograd.grad(heard.sum(), (queries, keys, values))
    assert all(torch.equal(gradient, torch.zeros(2, 3, 4)) for gradient in gradients)


def remembered(policy, worlds=1):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(value.shape, generator=generator) for name, value in policy.begin(worlds).items()}


def attended(policy, queries, messages, speakers):
    """What one receiver hears of the speakers, with a loop over them."""
    scores = {j: float(queries @ messages[j][:3]) / math.sqrt(3) for j in speakers}
    total = sum(math.exp(score) for score in scores.values())
    return sum((math.exp(scores[j]) / total * messages[j][3:] for j in speakers), torch.zeros(4))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_step_by_hand(rounds):
    env, policy = team(rounds)
    alive = torch.tensor([[True, True, False, True, True]])
    seen = torch.randn(1, 5, env.spec.observation_size, generator=torch.Generator().manual_seed(1))
    memory = remembered(policy)
    living = [0, 1, 3, 4]
    with torch.no_grad():
        decision, after = policy.step(Moment(seen, alive, torch.zeros_like(alive)), memory)
        thoughts = list(memory["hidden"][0])
        for _ in range(rounds):
            messages = [policy.to_message(thought) for thought in thoughts]
            queries = [policy.to_query(thought) for thought in thoughts]
            heard = [attended(policy, queries[i], messages, [j for j in living if j != i]) for i in range(5)]
            if policy.rethink is not None:
                thoughts = [torch.tanh(policy.rethink(torch.cat(pair))) for pair in zip(heard, thoughts, strict=True)]
        for i in living:
            entered = policy.encoder(seen[0, i]) + policy.from_heard(heard[i])
            hidden, _ = policy.core.cell(entered[None], (memory["hidden"][0, i][None], memory["cell"][0, i][None]))
            assert torch.allclose(after["hidden"][0, i], hidden[0], atol=1e-5)
    assert after.keys() == {"hidden", "cell"}
    assert len(decision.talk.rounds) == rounds


def test_who_listens_to_whom_can_be_watched():
    env, policy = team()
    seen = []
    handle = policy.attention.register_forward_hook(lambda _module, _inputs, output: seen.append(output[1]))
    played = rollout(env, policy, worlds=4)
    handle.remove()
    weights = torch.stack(seen[: env.spec.horizon], dim=1)  # [B, T, receiver, sender]
    alive = played.alive[:, :-1]
    hears = alive.sum(-1, keepdim=True) - alive.int() > 0
    assert torch.allclose(weights.sum(-1), hears.float(), atol=1e-6)
    assert not weights[~alive.unsqueeze(2).expand_as(weights)].any()
    assert not weights.diagonal(dim1=-2, dim2=-1).any()


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_rounds_cost_messages():
    """Three rounds are three messages an agent step: three times the bits, for as many rights to speak."""
    env, once = team(channel="vq", channel_config={"codebook_size": 16})
    _, thrice = team(3, channel="vq", channel_config={"codebook_size": 16})
    played = rollout(env, thrice)
    meters = TalkMeter(once), TalkMeter(thrice)
    counts = meters[1].count(played)
    acts = played.acts
    assert counts.sent.agent_steps == int(acts.sum())
    assert counts.sent.messages == 3 * int(acts.sum())
    assert counts.sent.prefix_bits == 4 * 3 * int(acts.sum())
    listeners = int(((acts.sum(-1, keepdim=True) - 1) * acts).sum())
    assert counts.sent.received_bits == 4 * 3 * listeners
    figures = meters[1].report(counts)
    assert figures["messages_per_agent_step"] == 3
    assert figures["prefix_bits_per_agent_step"] == 12
    assert figures["prefix_bits_per_message"] == 4
    assert meters[0].report(meters[0].count(rollout(env, once)))["prefix_bits_per_agent_step"] == 4


def test_a_presence_bit_is_of_the_step():
    env, policy = team(2, policy="ic3net", channel="vq", channel_config={"codebook_size": 16}, message_size=4)
    played = rollout(env, policy)
    counts = TalkMeter(policy).count(played)
    opened = int((played.gates & played.acts).sum())
    assert counts.open_gates == opened
    assert counts.sent.messages == 2 * opened
    assert counts.sent.prefix_bits == 4 * 2 * opened + int(played.acts.sum())


@pytest.mark.parametrize("channel", [("ddcl", CODED_DDCL), ("vq", {"codebook_size": 8}), ("silent", {})], ids=str)
def test_every_round_goes_over_the_wire(channel):
    """Packets of all rounds are decoded to what was said, and from them alone the same is played again."""
    env, policy = team(2, *channel)
    code = frozen_code(env, policy, seed=0, episodes=40)
    figures = evaluate(env, policy, 0, 20, code=code)
    assert figures["messages_per_agent_step"] == (0 if channel[0] == "silent" else 2)
    trace = record(env, policy, 0, 20, code)
    if channel[0] != "silent":
        assert figures["wire_bytes_per_episode"] == pytest.approx(len(trace.data) / 20)
    prove(env, policy, trace)


def test_a_round_that_was_heard_otherwise_changes_what_follows():
    env, policy = team(2, channel="vq", channel_config={"codebook_size": 64, "segments": 7})
    played = rollout(env, policy, worlds=64)
    again = rollout(env, policy, worlds=64, heard=played.talk)
    assert torch.equal(again.actions, played.actions)
    assert torch.equal(again.talk.symbols, played.talk.symbols)
    for index in range(2):
        symbols = played.talk.symbols.clone()
        symbols[:, index::2] = 63 - symbols[:, index::2]
        other = rollout(env, policy, worlds=64, heard=Talk(symbols, played.talk.spoke))
        assert not torch.equal(other.values, played.values)


def test_a_packet_of_a_round_that_there_is_not_is_refused():
    env, policy = team(2, "vq", {"codebook_size": 8})
    trace = record(env, policy, 0, 4, frozen_code(env, policy, seed=0, episodes=8))
    trace.data[:2] = 255  # the step of the first packet's header
    trace = replace(trace, about=trace.about | {"packets": _hash(trace.data)})
    with pytest.raises(WireError, match="a step or an agent that there is not"):
        prove(env, policy, trace)


def test_each_round_has_draws_of_its_own():
    env, policy = team(3, "ddcl", {"delta": 0.2})
    worlds = torch.arange(2)
    draws = channel_noise(policy.channel, 0, "train", worlds, 0 * worlds, 4, 5, rounds=3)
    size = policy.channel.noise_size
    assert draws.shape == (2, 4, 5, 3 * size)
    talks = noise_of_talks(draws, 3)
    assert talks.shape == (2, 12, 5, size)
    assert torch.equal(talks[:, 7], draws[:, 2, :, size : 2 * size])  # step 2, round 1
    assert torch.equal(channel_noise(policy.channel, 0, "train", worlds, 0 * worlds, 4, 5), draws[..., :size])
    assert len(talks.unique()) > 0.99 * talks.numel()


def test_what_learners_are_given_of_rounds():
    """Rows hold every round; the replay says the same; losses are means over all messages of all rounds."""
    env, policy = team(2, "ddcl", {"delta": 0.2})
    played = rollout(env, policy)
    batch = epoch_rows(reinforce().columns(played), 0, 0, 0, minibatches=2, learners=1)
    assert batch["spoke"].shape[1] == 2 * batch["acts"].shape[1]
    assert batch["messages"].unique().sum() == 2 * played.acts.sum()
    decision = replayed(policy, batch)
    flipped, symbols, error = _compare(batch, decision)
    assert (flipped, symbols) == (0, 2 * int(played.acts.sum()) * 7)
    assert error < 1e-4
    talk, acts = decision.talk, batch["acts"]
    loss = channel_loss(policy.channel, talk, acts, torch.tensor(float(2 * acts.sum())))
    first, second = talk.losses["rate"][:, ::2][acts], talk.losses["rate"][:, 1::2][acts]
    assert loss.stats["channel/rate"].item() == pytest.approx(torch.cat([first, second]).mean().item(), rel=1e-5)


def test_what_channels_absorb_of_rounds():
    env, policy = team(2, "vq", {"codebook_size": 8, "update": "ema"})
    played = rollout(env, policy)
    decision = replayed(policy, reinforce().columns(played))
    assert len(sent_messages(decision.talk, played.acts)) == 2 * int(played.acts.sum())


def test_talks_of_a_rollout_know_who_acts():
    acts = torch.tensor([[[True, False], [False, True]]])
    spoke = torch.ones(1, 6, 2, dtype=torch.bool)
    assert torch.equal(each_talk(acts, spoke)[0], acts[0, [0, 0, 0, 1, 1, 1]])
    assert each_talk(acts, spoke[:, :2]) is acts


def test_commnet_without_memory_talks_in_hops():
    """tanh(x + W h + C m) for each round, h being x at first (Sukhbaatar et al. 2016, equation 3)."""
    env, policy = team(2, policy="commnet", core="feedforward")
    seen = torch.randn(1, 5, env.spec.observation_size, generator=torch.Generator().manual_seed(1))
    alive = torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        decision, _ = policy.step(Moment(seen, alive, ~alive), policy.begin(1))
        hidden = x = torch.tanh(policy.encoder(seen[0]))
        for _ in range(2):
            mean = torch.stack([hidden[[j for j in range(5) if j != i]].mean(0) for i in range(5)])
            hidden = torch.tanh(x + policy.core.linear(hidden) + policy.from_message(mean))
        assert torch.allclose(decision.logits[0], policy.action_head(hidden), atol=1e-5)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "channel", "says"),
    [
        ({"message_size": 4, "key_size": 4}, {}, "policy: message_size 4 must be greater than key_size 4"),
        ({"rounds": 0}, {}, "policy.rounds: got 0"),
        (
            {"rounds": 2},
            {"channel": "vq", "channel_config": {"placement": "readout"}},
            "policy.rounds: got 2, wanted 1",
        ),
        (
            {"rounds": 2},
            {"channel": "daps", "channel_config": {"mode": "task"}},
            "policy.rounds: got 2, wanted 1: in channel.mode task",
        ),
    ],
)
def test_wrong_settings_are_told(policy, channel, says):
    with pytest.raises(ConfigError) as refused:
        team(**({"rounds": 1} | policy), **channel)
    assert says in str(refused.value)


def test_the_published_message_is_a_key_and_a_hidden_state():
    env, policy = team(message_size=None, hidden_size=128, key_size=16)
    assert policy.channel.message_size == 144
    assert policy.from_heard.in_features == 128


def test_a_bottleneck_reads_what_was_attended_to():
    env, policy = team(channel="vq", channel_config={"placement": "readout", "codebook_size": 8})
    assert policy.bottleneck.message_size == 4  # a value
    played = rollout(env, policy)
    alive = played.alive[:, :-1]
    assert torch.equal(played.talk.readout.spoke, alive & (alive.sum(-1, keepdim=True) > 1))


# --- learning --------------------------------------------------------------------------------------------------------


def relay(objective, updates, lr=3e-3, **options):
    env, policy = team(env="relay", **options)
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=lr, alpha=0.97, eps=1e-6)
    return train(env, policy, objective, optimizer, updates), env, policy


WIDER = {"hidden_size": 16, "key_size": 4, "message_size": 12}


@pytest.mark.parametrize(("rounds", "channel"), [(1, "continuous"), (2, "ddcl")])
def test_tarmac_learns_to_repeat_what_it_heard(rounds, channel):
    success, _, _ = relay(reinforce(), 150, rounds=rounds, channel=channel, **WIDER)
    assert success > 0.9


def test_silence_does_not():
    success, _, _ = relay(reinforce(), 150, channel="silent", **WIDER)
    assert success < 0.2


def test_a_gate_is_learned_where_it_matters():
    """With a shared return, speaking in time is worth something to the speaker: the gate opens when it must."""
    goal = reinforce(mean_ratio=1.0, entropy_weight=Schedule.of(0.0))
    success, env, policy = relay(goal, 200, lr=1e-2, policy="ic3net", hidden_size=16)
    assert success > 0.9
    meter = TalkMeter(policy)
    figures = meter.report(meter.count(rollout(env, policy, worlds=64)))
    assert figures["gate_rate"] == figures["effective_gate_rate"] > 0.5
