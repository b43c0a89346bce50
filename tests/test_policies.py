"""Policies: nothing passes between agents but what is on the wire."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from marlcomm.envs.base import TeamSpec
from marlcomm.policies import transformer
from marlcomm.policies.memory import AgentLSTM
from marlcomm.policies.packing import Packing
from marlcomm.policies.records import Decision, Moment, Overheard, stack_talks
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError

CHANNELS = {
    "continuous": {},
    "silent": {},
    "ddcl": {"delta": 0.1},
    "vq": {"codebook_size": 8, "segments": 2},
    "gumbel": {"vocabulary": 8, "tokens": 2},
    "gr_mck": {"vocabulary": 8, "tokens": 3, "sender": "autoregressive", "end_token": True},
    "daps": {"vocabulary": 8, "tokens": 2},
}
POLICIES = {
    "ic3net": {"hidden_size": 16, "message_size": 8},
    "ic3net-hidden": {"hidden_size": 16},
    "ic3net-legacy": {"hidden_size": 16, "legacy": True},
    "ic3net-rnn": {"hidden_size": 16, "core": "rnn"},
    "ic3net-feedforward": {"hidden_size": 16, "core": "feedforward"},
    "commnet": {"hidden_size": 16, "agent_identity": True},
    "ic3net-rounds": {"hidden_size": 16, "rounds": 2},
    "commnet-rounds": {"hidden_size": 16, "core": "feedforward", "rounds": 2},
    "tarmac": {"hidden_size": 16, "message_size": 8, "key_size": 4},
    "tarmac-rounds": {"hidden_size": 16, "key_size": 4, "message_size": 12, "rounds": 3},
    "transformer": {"hidden_size": 16, "width": 8, "message_size": 8},
    "transformer-deep": {
        "hidden_size": 16,
        "width": 8,
        "message_size": 8,
        "layers": 3,
        "heads": 2,
        "agent_identity": True,
    },
    "transformer-feedforward": {"hidden_size": 16, "width": 8, "message_size": 8, "recurrent": False},
    "transformer-senders": {"hidden_size": 16, "width": 8, "message_size": 8, "knows_senders": True, "layers": 2},
    "transformer-slots": {"hidden_size": 16, "width": 8, "message_size": 8, "heads": 2, "layers": 2}
    | {"knows_senders": True, "slot_bias": True},
    "ic3net-own": {"hidden_size": 16, "message_size": 8, "parameters": "per_agent"},
    "transformer-own": {"hidden_size": 16, "width": 8, "message_size": 8, "layers": 2, "parameters": "per_agent"}
    | {"heads": 2, "slot_bias": True},
}


def team(policy="transformer", channel="ddcl", env_config=None):
    names = TeamNames(
        env="traffic_junction",
        env_config={"add_rate": 0.5} | (env_config or {}),
        policy=policy.partition("-")[0],
        policy_config=POLICIES[policy],
        channel=channel,
        channel_config=CHANNELS[channel],
    )
    env = names.make_env()
    return env, names.make_policy(env, seed=0)


def rollout(env, policy, worlds=40):
    return Player(env, policy, seed=0).play(torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64))


def moments(played, policy):
    """The inputs of a played rollout, whole: [B, T, N, ...]."""
    steps, agents = played.acts.shape[1:]
    noise = channel_noise(policy.channel, 0, "train", played.worlds, played.episodes, steps, agents, policy.rounds)
    return Moment(played.observations, played.alive[:, :-1], played.spawned[:, :-1], played.gates, noise)


def at(moment, time):
    parts = (moment.observations, moment.alive, moment.spawned, moment.gates, moment.noise)
    return Moment(*(None if part is None else part[:, time] for part in parts))


def changed(moment, **parts):
    return Moment(**(vars(moment) | parts))


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("policy_name", POLICIES)
def test_agents_know_of_others_what_they_hear_and_nothing_else(policy_name, channel):
    """Change what agent j sees at every step, replay its recorded words: the others do not notice, bit for bit."""
    env, policy = team(policy_name, channel)
    played = rollout(env, policy)
    whole = moments(played, policy)
    j = 2
    others = [agent for agent in range(env.spec.num_agents) if agent != j]
    generator = torch.Generator().manual_seed(1)
    seen = whole.observations.clone()
    seen[:, :, j] = torch.randn(seen[:, :, j].shape, generator=generator)
    disturbed = changed(whole, observations=seen)
    replaced = torch.zeros(played.acts.shape[0], env.spec.num_agents, dtype=torch.bool)
    replaced[:, j] = True
    memory, other_memory = policy.begin(40), policy.begin(40)
    own_changed = False
    with torch.no_grad():
        for time in range(played.acts.shape[1]):
            talks = range(time * policy.rounds, (time + 1) * policy.rounds)
            said = [Overheard(played.talk.symbols[:, talk], replaced) for talk in talks]
            expected, memory = policy.step(at(whole, time), memory, said)
            decision, other_memory = policy.step(at(disturbed, time), other_memory, said)
            for name in ("logits", "values", "gate_logits"):
                before, after = getattr(expected, name), getattr(decision, name)
                if before is not None:
                    assert torch.equal(before[:, others], after[:, others]), (name, time)
            assert torch.equal(expected.talk.symbols, decision.talk.symbols)
            own_changed |= not torch.equal(expected.logits[:, j], decision.logits[:, j])
    assert own_changed


@pytest.mark.parametrize("policy_name", POLICIES)
def test_silence_is_silent(policy_name):
    """Under `silent` no gradient of an agent's outputs reaches what another one sees, over the whole episode."""
    env, policy = team(policy_name, "silent")
    played = rollout(env, policy, worlds=4)
    whole = moments(played, policy)
    seen = whole.observations.clone().requires_grad_()
    decision = policy(changed(whole, observations=seen))
    for i in range(env.spec.num_agents):
        outputs = [decision.logits[:, :, i].square().sum(), decision.values[:, :, i].sum()]
        if decision.gate_logits is not None:
            outputs.append(decision.gate_logits[:, :, i].square().sum())
        (gradient,) = torch.autograd.grad(sum(outputs), seen, retain_graph=True)
        assert gradient[:, :, i].abs().sum() > 0
        others = [agent for agent in range(env.spec.num_agents) if agent != i]
        assert not gradient[:, :, others].any()
    assert not decision.talk.spoke.any()


@pytest.mark.parametrize("policy_name", POLICIES)
def test_silence_does_not_tell_who_is_there(policy_name):
    """Under `silent` an agent's outputs do not change with the alive flags of others either."""
    env, policy = team(policy_name, "silent")
    whole = moments(rollout(env, policy, worlds=8), policy)
    alone = torch.zeros_like(whole.alive)
    alone[:, :, 0] = whole.alive[:, :, 0]
    with torch.no_grad():
        together, lonely = policy(whole), policy(changed(whole, alive=alone))
    assert torch.equal(together.logits[:, :, 0], lonely.logits[:, :, 0])


@pytest.mark.parametrize("channel", sorted(CHANNELS.keys() - {"silent", "daps"}))
@pytest.mark.parametrize("policy_name", POLICIES)
def test_the_listeners_loss_reaches_the_speaker(policy_name, channel):
    env, policy = team(policy_name, channel)
    played = rollout(env, policy)
    whole = moments(played, policy)
    if whole.gates is not None:
        whole = changed(whole, gates=torch.ones_like(whole.gates))
    seen = whole.observations.clone().requires_grad_()
    decision = policy(changed(whole, observations=seen))
    (gradient,) = torch.autograd.grad(decision.logits[:, :, 0].square().sum(), seen)
    assert gradient[:, :, 1:].abs().sum() > 0


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("policy_name", POLICIES)
def test_replay_is_the_rollout(policy_name, channel):
    env, policy = team(policy_name, channel)
    played = rollout(env, policy)
    with torch.no_grad():
        decision = policy(moments(played, policy))
    acts = played.acts
    assert torch.allclose(decision.values[acts], played.values[:, :-1][acts], atol=1e-5)
    flipped = (decision.talk.symbols != played.talk.symbols)[played.talk.spoke]
    if channel != "continuous":  # a float's last bit is a symbol too
        assert not flipped.any()
    assert torch.equal(decision.talk.spoke, played.talk.spoke)


@pytest.mark.parametrize("channel", ["ddcl", "daps"])
@pytest.mark.parametrize("policy_name", POLICIES)
def test_what_lies_after_the_end_of_a_world_is_not_computed(policy_name, channel):
    env, policy = team(policy_name, channel)
    whole = moments(rollout(env, policy), policy)
    horizon = env.spec.horizon
    running = torch.arange(horizon) < (torch.arange(40) * 7 % (horizon + 1)).unsqueeze(1)
    talks = running.repeat_interleave(policy.rounds, dim=1)
    everything, what_counts = flat(policy(whole)), flat(policy(whole, running=running))
    assert everything.keys() == what_counts.keys()
    for name, value in what_counts.items():
        steps = talks if name.startswith(".talk") else running
        assert torch.allclose(value[steps].double(), everything[name][steps].double(), atol=1e-5), name
    skipped = (what_counts[".logits"] == 0).flatten(2).all(-1)
    assert running.numel() - skipped.sum() == sum(Packing(running, least=13).counts) < 0.7 * running.numel()


def test_packed_steps_return_to_their_places():
    running = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0]]).bool()
    packing = Packing(running)
    x = torch.arange(1.0, 13.0).view(4, 3)
    assert packing.order.tolist() == [1, 3, 0, 2]
    assert packing.counts == [3, 2, 1]
    assert packing.pack(x).tolist() == [4, 10, 1, 5, 11, 6]
    assert torch.equal(packing.spread(packing.pack(x)), x * running)
    assert Packing(running, least=2).counts == [3, 2, 2]
    assert Packing(running, least=9).counts == [4, 4, 4]


@pytest.mark.parametrize("rounds", [1, 2])
def test_without_memory_all_steps_at_once_are_the_steps_one_by_one(rounds):
    names = TeamNames(
        env="traffic_junction",
        env_config={"add_rate": 0.5},
        policy="transformer" if rounds == 1 else "commnet",
        policy_config={"hidden_size": 16} | ({"recurrent": False} if rounds == 1 else POLICIES["commnet-rounds"]),
        channel="daps" if rounds == 1 else "ddcl",
        channel_config={"mode": "task", "vocabulary": 8, "tokens": 2} if rounds == 1 else {},
    )
    env = names.make_env()
    policy = names.make_policy(env, seed=0)
    whole = moments(rollout(env, policy), policy)
    steps = [policy.step(now, {})[0] for now in whole.steps()]
    logits, values = (torch.stack([getattr(step, name) for step in steps], dim=1) for name in ("logits", "values"))
    talk = stack_talks([step.talk for step in steps])
    at_once, one_by_one = flat(policy(whole)), flat(Decision(logits, None, values, talk, policy.distribution))
    assert at_once.keys() == one_by_one.keys()
    assert len(at_once) > (8 if rounds == 1 else 4)
    for name, value in at_once.items():
        assert value.shape == one_by_one[name].shape, name
        assert torch.allclose(value.double(), one_by_one[name].double(), atol=1e-5), name


def flat(record, prefix=""):
    """All tensors of a record, however deep they are in it, by their paths."""
    if isinstance(record, torch.Tensor):
        return {prefix: record}
    parts = record if isinstance(record, dict) else vars(record) if hasattr(record, "__dataclass_fields__") else {}
    return {path: x for name, part in parts.items() for path, x in flat(part, f"{prefix}.{name}").items()}


def test_telling_senders_apart_does_not_drown_what_they_say():
    """At the start, other messages change the states about as much where senders are known as where they are not."""

    def told(knows_senders):
        teams = [crossed_team(seed, agent_identity=True, knows_senders=knows_senders) for seed in range(3)]
        return sum(_told(policy, env) for env, policy in teams)

    assert told(True) > 0.6 * told(False)


def crossed_team(seed=0, **settings):
    """Discs that hear each other's landmarks, as floats, and remember nothing."""
    settings = {"recurrent": False} | settings
    names = TeamNames("particle_spread", {"view": "other_landmark"}, "transformer", settings, "continuous", {})
    env = names.make_env()
    return env, names.make_policy(env, seed)


@torch.no_grad()
def _told(policy, env):
    """How far states move when every listener hears the messages of another world instead."""
    whole = at(moments(rollout(env, policy), policy), 0)
    features = policy.see(policy._inputs(whole.observations))
    messages, audible = policy.say(features, {}), policy.audible(whole.alive)
    here, there = (
        policy.hear(features, {}, received, audible, whole.alive)[0] for received in (messages, messages.roll(1, 0))
    )
    return float((there - here).std())


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_a_bias_by_slots_can_pick_one_sender_whatever_is_said(layers):
    env, policy = crossed_team(layers=layers, slot_bias=True)
    agents, heads = env.spec.num_agents, policy.settings.heads
    before = torch.eye(agents).roll(1, 0)  # receiver i listens to i - 1
    for slots, wanted in ((policy.slot_queries, before), (policy.slot_keys, torch.eye(agents))):
        by_head = torch.zeros(agents, heads, slots.shape[1] // heads)
        by_head[..., :agents] = 30.0 * wanted.unsqueeze(1)
        slots.copy_(by_head.flatten(1))
    whole = at(moments(rollout(env, policy), policy), 0)
    features = policy.see(policy._inputs(whole.observations))
    messages, audible = policy.say(features, {}), policy.audible(whole.alive)

    def states(received):
        return policy.hear(features, {}, received, audible, whole.alive)[0]

    def gathered(received):
        return policy.gather(features, {}, received, audible)

    for sender in range(agents):
        other = messages.clone()
        other[:, sender] += 1.0
        for what in (states, gathered):
            moved = (what(other) - what(messages)).abs().amax((0, 2))
            assert moved[(sender + 1) % agents] > 1e-3
            assert moved.index_fill(0, torch.tensor((sender + 1) % agents), 0.0).max() < 1e-6


def test_memory_is_wiped_where_a_new_agent_takes_the_slot():
    env, policy = team("transformer", "continuous")
    generator = torch.Generator().manual_seed(0)
    alive = torch.ones(3, 5, dtype=torch.bool)
    quiet = torch.zeros(3, 5, dtype=torch.bool)
    first = Moment(torch.randn(3, 5, 17, generator=generator), alive, quiet)
    second = torch.randn(3, 5, 17, generator=generator)
    spawned = quiet.clone()
    spawned[:, 1] = True
    with torch.no_grad():
        _, memory = policy.step(first, policy.begin(3))
        # Alone, so that nobody's memory reaches it through talk.
        only = quiet.clone()
        only[:, 1] = True
        kept, _ = policy.step(Moment(second, only, quiet), memory)
        wiped, _ = policy.step(Moment(second, only, spawned), memory)
        fresh, _ = policy.step(Moment(second, only, quiet), policy.begin(3))
    assert torch.equal(wiped.logits[:, 1], fresh.logits[:, 1])
    assert not torch.equal(kept.logits[:, 1], fresh.logits[:, 1])


def test_legacy_slots_hand_their_memory_on():
    """As published: the next car of a slot goes on with the last one's memory, however long the slot was empty."""
    env, policy = team("transformer", "silent", env_config={"legacy": True})
    played = rollout(env, policy)
    assert played.spawned[:, 1:].any()
    with torch.no_grad():
        replayed = policy(moments(played, policy)).values
    assert torch.allclose(replayed[played.acts], played.values[:, :-1][played.acts], atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    quiet = torch.zeros(3, 5, dtype=torch.bool)
    with torch.no_grad():
        first = Moment(torch.randn(3, 5, 17, generator=generator), ~quiet, quiet)
        _, memory = policy.step(first, policy.begin(3))
        _, held = policy.step(Moment(torch.zeros(3, 5, 17), quiet, quiet), memory)
        went_on, _ = policy.step(Moment(first.observations, ~quiet, quiet), memory)
        handed_on, _ = policy.step(Moment(first.observations, ~quiet, ~quiet), memory)
    assert torch.equal(handed_on.logits, went_on.logits)
    for name, value in memory.items():
        assert torch.equal(held[name], value)


@pytest.mark.parametrize("policy_name", POLICIES)
def test_the_dead_are_not_heard(policy_name):
    env, policy = team(policy_name, "continuous")
    generator = torch.Generator().manual_seed(0)
    alive = torch.ones(4, 5, dtype=torch.bool)
    alive[:, 3] = False
    quiet = torch.zeros_like(alive)
    gates = torch.ones_like(alive) if policy.gated else None
    seen = torch.randn(4, 5, 17, generator=generator)
    memory = {name: torch.randn(value.shape, generator=generator) for name, value in policy.begin(4).items()}
    other = {name: value.clone() for name, value in memory.items()}
    for value in other.values():
        value[:, 3] += 1
    otherwise = seen.clone()
    otherwise[:, 3] += 1
    with torch.no_grad():
        first, _ = policy.step(Moment(seen, alive, quiet, gates), memory)
        second, _ = policy.step(Moment(otherwise, alive, quiet, gates), other)
    assert torch.equal(first.logits[:, :3], second.logits[:, :3])
    assert not first.talk.spoke[:, 3].any()


def test_a_shut_gate_mutes_but_does_not_deafen():
    env, policy = team("ic3net", "continuous")
    generator = torch.Generator().manual_seed(0)
    alive = torch.ones(2, 5, dtype=torch.bool)
    quiet = torch.zeros_like(alive)
    memory = {name: torch.randn(value.shape, generator=generator) for name, value in policy.begin(2).items()}
    seen = torch.randn(2, 5, 17, generator=generator)

    def logits(open_gates):
        gates = torch.zeros_like(alive)
        gates[:, open_gates] = True
        with torch.no_grad():
            return policy.step(Moment(seen, alive, quiet, gates), memory)[0].logits

    nobody, first, both = logits([]), logits([0]), logits([0, 1])
    assert torch.equal(nobody[:, 0], first[:, 0])  # nobody hears oneself
    assert not torch.equal(nobody[:, 1], first[:, 1])  # the one with the shut gate hears
    assert torch.equal(first[:, 1], both[:, 1])
    assert not torch.equal(first[:, 0], both[:, 0])


def test_gates_count_one_step_later_and_start_shut():
    env, policy = team("ic3net", "continuous")
    played = rollout(env, policy)
    assert policy.gated
    assert not played.gates[:, 0].any()
    keeps = played.alive[:, 1:-1] & ~played.spawned[:, 1:-1]
    assert torch.equal(played.gates[:, 1:], played.gate_choices[:, :-1] & keeps)
    assert torch.equal(played.talk.spoke, played.gates & played.alive[:, :-1])
    assert 0.1 < played.talk.spoke[played.acts].float().mean() < 0.9


def test_ic3net_hears_the_mean_of_the_others_by_hand():
    env, policy = team("ic3net-hidden", "continuous")
    generator = torch.Generator().manual_seed(0)
    hidden, cell = (torch.randn(1, 5, 16, generator=generator) for _ in range(2))
    seen = torch.randn(1, 5, 17, generator=generator)
    alive = torch.tensor([[True, True, True, True, False]])
    gates = torch.tensor([[True, True, False, True, True]])
    with torch.no_grad():
        _, memory = policy.step(
            Moment(seen, alive, torch.zeros_like(alive), gates), {"hidden": hidden.clone(), "cell": cell.clone()}
        )
        for agent, speakers in {0: [1, 3], 1: [0, 3], 2: [0, 1, 3], 3: [0, 1]}.items():
            mean = torch.stack([hidden[0, speaker] for speaker in speakers]).mean(0)
            entered = policy.encoder(seen[0, agent]) + policy.from_message(mean)
            expected, _ = policy.core.cell(entered[None], (hidden[0, agent][None], cell[0, agent][None]))
            assert torch.allclose(memory["hidden"][0, agent], expected[0], atol=1e-6)


def test_commnet_has_no_gate():
    _, policy = team("commnet", "continuous")
    assert not policy.gated
    assert policy.gate_head is None


def test_talk_of_the_transformer_has_no_delay_and_ic3nets_is_one_step_late():
    for name, late in (("transformer", False), ("commnet", True)):
        env, policy = team(name, "continuous")
        whole = moments(rollout(env, policy, worlds=16), policy)
        seen = whole.observations.clone().requires_grad_()
        logits = policy(changed(whole, observations=seen)).logits
        step = 9
        (gradient,) = torch.autograd.grad(logits[:, step, 0].square().sum(), seen)
        assert bool(gradient[:, step, 1:].any()) is not late
        assert gradient[:, step - 1, 1:].any()
        assert not gradient[:, step + 1 :].any()


def test_the_gradient_through_memory_is_cut_where_asked():
    names = TeamNames(
        "traffic_junction", {"add_rate": 1.0}, "ic3net", {"hidden_size": 8, "detach_every": 5}, "continuous", {}
    )
    env = names.make_env()
    policy = names.make_policy(env, 0)
    whole = moments(rollout(env, policy, worlds=8), policy)
    seen = whole.observations.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(policy(changed(whole, observations=seen)).logits[:, 12].sum(), seen)
    assert gradient[:, 10:13].any()
    assert not gradient[:, :10].any()


def test_a_stack_of_ones_own_equals_the_shared_one():
    env, policy = team("transformer", "continuous")
    layer = policy.layers[0]
    own, heard = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    audible = torch.rand(3, 5, 5) < 0.6
    itself = torch.eye(5, dtype=torch.bool).expand(3, -1, -1)
    shared = layer(torch.cat([own, heard], dim=1), 5, torch.cat([itself, audible], dim=-1))
    stacks, seen = transformer.stacks_of(own, heard, audible)
    assert stacks.shape == (15, 6, 8)
    assert torch.allclose(layer(stacks, 1, seen).view(3, 5, 8), shared, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_only_the_living_are_remembered(share):
    """Whether the dead are computed along (few rows) or left out (many), the living remember the same."""
    lstm = AgentLSTM(6, 4)
    generator = torch.Generator().manual_seed(0)
    inputs, hidden, cell = (torch.randn(50, 5, size, generator=generator) for size in (6, 4, 4))
    alive = torch.rand(50, 5, generator=generator) < share
    inputs.requires_grad_()
    memory = lstm(inputs, {"hidden": hidden, "cell": cell}, alive)
    expected = lstm.cell(inputs.flatten(0, 1), (hidden.flatten(0, 1), cell.flatten(0, 1)))
    for name, rows, before in zip(("hidden", "cell"), expected, (hidden, cell), strict=True):
        assert torch.allclose(memory[name][alive], rows.view(50, 5, 4)[alive], atol=1e-6)
        assert torch.equal(memory[name][~alive], before[~alive])
    (gradient,) = torch.autograd.grad(memory["hidden"][alive].sum(), inputs)
    (wanted,) = torch.autograd.grad(expected[0].view(50, 5, 4)[alive].sum(), inputs)
    assert torch.allclose(gradient, wanted, atol=1e-6)


def test_weights_depend_on_the_seed_alone():
    env, first = team()
    torch.manual_seed(123)
    _, second = team()
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("policy_name", ["transformer", "ic3net-hidden"])
def test_a_codebook_starts_from_what_the_untrained_team_says(policy_name, shared):
    settings = {"codebook_size": 32, "segments": 2, "shared_codebook": shared}
    names = TeamNames(
        "traffic_junction", {"add_rate": 0.5}, policy_name.partition("-")[0], POLICIES[policy_name], "vq", settings
    )
    env = names.make_env()
    policy, again = names.make_policy(env, 0), names.make_policy(env, 0)
    assert torch.equal(policy.channel.codebook, again.channel.codebook)
    played = rollout(env, policy)
    for segment in range(2):
        used = played.talk.symbols[..., segment][played.acts].unique()
        assert len(used) >= 12  # of random codewords, a few at most


def test_a_policy_starts_from_the_weights_that_fit():
    names = TeamNames("traffic_junction", {}, "transformer", POLICIES["transformer"], "continuous", {})
    env = names.make_env()
    parent = {name: 2 * value.numpy() for name, value in names.make_policy(env, 0).state_dict().items()}
    swapped = replace(names, channel="vq").make_policy(env, 0, parent)
    assert all(torch.equal(swapped.state_dict()[name], torch.as_tensor(value)) for name, value in parent.items())
    untrained = replace(names, channel="vq").make_policy(env, 0)
    assert not torch.equal(swapped.channel.codebook, untrained.channel.codebook)  # calibrated on what *this* team says
    own = {name: value.numpy() + 1 for name, value in untrained.state_dict().items()}
    again = replace(names, channel="vq").make_policy(env, 0, own)
    assert torch.equal(again.channel.codebook, torch.as_tensor(own["channel.codebook"]))  # trained already
    with pytest.raises(ConfigError, match="nothing in this checkpoint"):
        names.make_policy(env, 0, {"other": np.zeros(3)})


def test_greedy_play_takes_the_likeliest_action():
    env, policy = team()
    played = Player(env, policy, 0).play(torch.arange(8), torch.zeros(8, dtype=torch.int64), greedy=True)
    with torch.no_grad():
        likeliest = policy(moments(played, policy)).logits.argmax(-1)
    assert torch.equal(played.actions[played.acts], likeliest[played.acts])


def test_rollouts_of_a_world_do_not_depend_on_the_batch():
    env, policy = team()
    whole = rollout(env, policy, worlds=64)
    part = Player(env, policy, 0).play(torch.arange(32, 64), torch.zeros(32, dtype=torch.int64))
    for name in ("actions", "rewards", "observations"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[32:])
    assert torch.equal(part.talk.symbols, whole.talk.symbols[32:])


def test_a_team_spec_names_its_agents():
    spec = TeamSpec("x", 3, 2, 2, 5, "s")
    assert spec.agent_names == ["agent_0", "agent_1", "agent_2"]
