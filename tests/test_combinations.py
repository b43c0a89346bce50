"""Every policy with every channel under every trainer, from the tables: two updates, or a refusal that says why."""

import re
from dataclasses import replace
from functools import partial
from itertools import product
from typing import get_args

import pytest
import tiny_world  # noqa: F401 (registers worlds)
import torch
from learning import learned_module, weights
from small_teams import SMALL_WORLDS, WORLDS, built_in, small, team

from marlcomm.algorithms.build import algorithm_config
from marlcomm.algorithms.settings import MAPPOTraining
from marlcomm.config import experiment
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ALGORITHMS, CHANNELS, ENVS, POLICIES, TABLES, ConfigError


@pytest.fixture
def train(start):
    """Two updates in this process.

    Returns the algorithm and the names of trainable parts that the updates left as they were.
    """

    def two_updates(data):
        algorithm = start(experiment(data))
        before = weights(algorithm)
        for _ in range(2):
            algorithm.training_step()
        after, parts = weights(algorithm), dict(learned_module(algorithm).named_parameters())
        for name in parts:
            assert torch.isfinite(torch.as_tensor(after[name])).all(), name
        assert algorithm.figures["update/skipped"] == 0
        assert algorithm.figures.get("replay/ratio_error", 0.0) <= 1e-4
        return algorithm, {name for name in parts if (before[name] == after[name]).all()}

    return two_updates


def replay(algorithm):
    """The policy, what everybody saw in a round with a gradient, and what it answers."""
    runner, worlds = algorithm.env_runner, torch.arange(WORLDS)
    played = Player(runner.env, runner.module.policy, 0).play(worlds, torch.zeros_like(worlds))
    policy, (steps, agents) = runner.module.policy, played.acts.shape[1:]
    seen = played.observations.requires_grad_()
    draws = channel_noise(policy.channel, 0, "train", worlds, worlds * 0, steps, agents, policy.rounds)
    return policy, seen, policy(Moment(seen, played.alive[:, :-1], played.spawned[:, :-1], played.gates, draws))


def reaches(output, seen):
    """Whether outputs [...] depend on what the first agent sees."""
    (gradient,) = torch.autograd.grad(output.sum(), seen, retain_graph=True, allow_unused=True)
    return gradient is not None and used(gradient[:, :, 0])


def kept_its_promise(policy, seen, decision):
    """A listener's answer teaches the speaker, or the channel's own losses do; under silence nothing does."""
    heard = reaches(decision.logits[:, :, 1, 0], seen)
    if policy.quantiser.carries and not policy.quantiser.differentiable:
        who = 0 if policy.bottleneck is None else 1
        return not heard and any(reaches(loss[:, :, who], seen) for loss in decision.talk.quantised.losses.values())
    return heard == policy.quantiser.carries


def without_a_say(policy, decision):
    """Names of parts that nothing a policy answers, and no loss of its channel, depends on."""
    outputs = [decision.logits, decision.gate_logits, decision.values, *decision.talk.quantised.losses.values()]
    total = sum(output.sum() for output in outputs if output is not None)
    names, parts = zip(*policy.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, parts, allow_unused=True)
    return {f"policy.{name}" for name, gradient in zip(names, gradients, strict=True) if not used(gradient)}


def used(gradient):
    return gradient is not None and bool(gradient.any())


def unneeded(algorithm):
    """Names of parts that a trainer has no use for: value heads, and beside critics of its own spreads of actions."""
    module = learned_module(algorithm)
    parts, policy = dict(module.named_parameters()), module.policy
    critics = any(name.startswith("critics.") for name in parts)
    central = any(name.startswith("team_values.critic.") for name in parts)
    if "loss/value" in algorithm.figures and not (critics or central):
        return set()
    idle = [part for head in policy.value_heads for part in head.parameters()]
    idle += [head.spread for head in policy.action_heads if critics and hasattr(head, "spread")]
    names = {name for name, part in parts.items() if any(part is one for one in idle)}
    return names | ({f"target_{name}" for name in names} & parts.keys())


def check(data):
    """What a run checks before it begins."""
    algorithm_config(experiment(data)).validate()


def refusal(way):
    """What a way to a run says against it; None if nothing."""
    try:
        way()
    except ConfigError as error:
        return str(error)
    return None


def advised(data):
    """The keys that sentences name until an experiment is a good one, if their advice is followed; none if it is."""
    sentence = refusal(partial(check, data))
    if sentence is None:
        return []
    said = re.match(r"(\w+)\.(\w+): got (.+?), wanted (.+?): (\w+ .+)", sentence)
    assert said, sentence
    kind, key, got, wanted, _ = said.groups()
    field = TABLES[kind].row(data[kind]["name"]).settings_model().model_fields[key]
    assert str(data[kind].get(key, field.default)) == got.strip("'")
    assert wanted != got
    better = data | {kind: data[kind] | {key: type(field.default)(wanted.strip("'"))}}
    return [f"{kind}.{key}", *advised(better)]


CRITICS = get_args(MAPPOTraining.model_fields["critic"].annotation)


def combinations():
    """All of them; MAPPO's critics take turns, so that each of them meets every policy, channel and placement."""
    parts = [*map(built_in, (ALGORITHMS, POLICIES, CHANNELS)), ["sender", "readout"]]
    for (_, algorithm), *others in product(*map(list, map(enumerate, parts))):
        turn = sum(place for place, _ in others) % len(CRITICS)
        yield algorithm, *(name for _, name in others), CRITICS[turn] if algorithm == "mappo" else None


@pytest.mark.parametrize(("algorithm", "policy", "channel", "placement", "critic"), list(combinations()))
def test_every_combination_learns_or_is_refused(train, algorithm, policy, channel, placement, critic):
    judged = {} if critic is None else {"critic": critic}
    data = team(
        policy={"name": policy},
        channel={"name": channel, "placement": placement},
        algorithm={"name": algorithm} | judged,
    )
    wrong = advised(data)
    if wrong:
        possible = ["channel.placement"] if placement == "readout" else []
        possible += ["policy.force_gate_open"] if algorithm == "supervised" or channel == "silent" else []
        assert set(wrong) <= set(possible)
        return
    trained, left = train(data)
    network, seen, decision = replay(trained)
    assert kept_its_promise(network, seen, decision)
    unheard = set() if network.channel.carries else without_a_say(network, decision)
    assert left - unneeded(trained) - {f"target_{name}" for name in unheard} == unheard


@pytest.mark.parametrize("algorithm", built_in(ALGORITHMS))
@pytest.mark.parametrize("env", built_in(ENVS))
def test_every_world_is_learned_in_by_every_trainer(train, env, algorithm):
    data = team({"name": env} | SMALL_WORLDS[env], algorithm={"name": algorithm})
    if algorithm == "supervised" and not ENVS.row(env).load().labelled:
        assert re.match(r"env.name: got .+, wanted a world that says .+: .*lewis_game", refusal(partial(check, data)))
        return
    trained, left = train(data)
    assert left == unneeded(trained)


HEARD = [
    ("transformer", {}, 1),
    ("tarmac", {}, 2),
    ("tarmac", {"rounds": 2}, 2),
    ("commnet", {}, 2),
    ("commnet", {"rounds": 2}, 1),
    ("commnet", {"core": "feedforward"}, 1),
    ("ic3net", {}, 2),
    ("ic3net", {"rounds": 2}, 2),
    ("ic3net", {"core": "feedforward"}, 2),
    ("ic3net", {"core": "rnn", "force_gate_open": True}, 2),
]


@pytest.mark.parametrize(("policy", "settings", "step"), HEARD)
def test_settings_say_when_a_policy_is_first_heard(policy, settings, step):
    names = TeamNames("relay", {"agents": 3}, policy, small("policy", policy) | settings, "continuous", {})
    env, worlds = names.make_env(), torch.arange(WORLDS)
    network = names.make_policy(env, 0)
    played = Player(env, network, 0).play(worlds, torch.zeros_like(worlds))
    seen = played.observations.requires_grad_()
    now = Moment(seen, played.alive[:, :-1], played.spawned[:, :-1], played.gates)
    heard = network(now).logits[:, :, 1]
    steps = [time + 1 for time in range(env.spec.horizon) if reaches(heard[:, time], seen)]
    assert POLICIES.check(policy, names.policy_config).first_heard == steps[0] == step


ONE_STEP = {"lewis_game": "steps", "particle_spread": "horizon"}


@pytest.mark.parametrize("env", ONE_STEP)
@pytest.mark.parametrize(("policy", "settings", "step"), HEARD)
def test_talk_that_nobody_lives_to_hear_is_refused(env, policy, settings, step):
    world = {"name": env} | SMALL_WORLDS[env] | {ONE_STEP[env]: 1}
    said = advised(team(world, policy={"name": policy} | settings))
    assert said == ([f"env.{ONE_STEP[env]}"] if step > 1 else [])
    told = refusal(partial(check, team(world, policy={"name": policy} | settings, channel={"name": "silent"})))
    assert told is None or "gate" in told  # who is to hear nothing is never too late


@pytest.mark.parametrize(("policy", "late"), [("transformer", False), ("tarmac", True)])
def test_a_world_that_is_found_to_be_too_short_is_refused(policy, late):
    names = TeamNames("pettingzoo", {"maker": "foreign_worlds:Leavers"}, policy, small("policy", policy), "ddcl", {})
    names.check()
    spec = replace(names.make_env().spec, horizon=1)
    told = refusal(partial(names.build, spec))
    assert told is None if not late else told.startswith("env.horizon: got 1, wanted 2: talk of this policy")


def test_a_team_that_learned_a_gate_may_be_evaluated_in_silence():
    data = team(policy={"name": "ic3net"}, channel={"name": "silent"})
    assert refusal(partial(experiment, data)) is None
    assert refusal(partial(check, data)).startswith("policy.force_gate_open: got False")


def test_channels_and_their_settings_agree_on_what_is_carried():
    for name in built_in(CHANNELS):
        row = CHANNELS.row(name)
        assert row.settings_model().carries == row.load().carries, name


@pytest.mark.parametrize("placement", ["sender", "readout"])
@pytest.mark.parametrize("mode", ["grounding", "task"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_both_ways_to_a_run_refuse_alike(rounds, mode, placement):
    data = team(
        policy={"name": "tarmac", "rounds": rounds}, channel={"name": "daps", "mode": mode, "placement": placement}
    )
    settings = [{key: value for key, value in data[kind].items() if key != "name"} for kind in ("policy", "channel")]
    python, yaml = TeamNames("relay", {}, "tarmac", settings[0], "daps", settings[1]).check, partial(experiment, data)
    said = [refusal(way) for way in (python, yaml)]
    assert said[0] == said[1]
    one_too_many = [rounds == 2, mode == "task", placement == "readout"]
    assert (said[0] is not None) == (sum(one_too_many) > 1)
