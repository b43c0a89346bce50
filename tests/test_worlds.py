"""What every world of ours promises beside its contract: draws hang on keys alone, and silence is silent."""

import pytest
import torch

from marlcomm.envs.scripts import random_actions
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ENVS, POLICIES

SETTINGS = {
    "ghost_run": [{}, {"mode": "legacy", "map": "fresh"}],
    "lewis_game": [{"training_rounds": 64, "validation_rounds": 16, "steps": 3}],
    "particle_spread": [{}, {"view": "nearest"}, {"view": "radius"}, {"view": "other_landmark"}],
    "pettingzoo": [],  # a world of somebody else's has tests of its own
    "predator_prey": [{"difficulty": "easy"}, {"difficulty": "medium", "moving_prey": True}],
    "traffic_junction": [{}, {"difficulty": "medium", "clock": True}],
}
OURS = [name for name, row in ENVS.rows.items() if str(row.target).startswith("marlcomm.")]  # tests register others
WORLDS = [(name, settings) for name in OURS for settings in SETTINGS.get(name, [{}])]


def make(name, settings):
    return ENVS.row(name).load()(ENVS.check(name, settings))


def play(env, worlds, seed=4, stream="train", episode=2):
    """Observations [T, B, N, O] and rewards [T, B, N] of whole episodes under random actions."""
    env.reset(seed, worlds, torch.full_like(worlds, episode), stream)
    steps = [env.step(random_actions(env)) for _ in range(env.spec.horizon)]
    return torch.stack([step.observations for step in steps]), torch.stack([step.rewards for step in steps])


@pytest.mark.parametrize(("name", "settings"), WORLDS)
def test_worlds_do_not_depend_on_their_batch(name, settings):
    env = make(name, settings)
    together = play(env, torch.arange(40))
    # Sums of floats may be rounded otherwise in a batch of another size; worlds of cells have none.
    near = 1e-5 if name == "particle_spread" else 0.0
    for index in (5, 39):
        for single, whole in zip(play(env, torch.tensor([index])), together, strict=True):
            assert torch.allclose(single[:, 0], whole[:, index], rtol=0, atol=near)


@pytest.mark.parametrize(("name", "settings"), WORLDS)
def test_streams_seeds_and_episodes_differ(name, settings):
    env, worlds = make(name, settings), torch.arange(40)
    base = play(env, worlds)[0]
    assert torch.equal(base, play(env, worlds)[0])
    for other in ({"seed": 5}, {"stream": "evaluation"}, {"episode": 3}):
        assert not torch.equal(base, play(env, worlds, **other)[0])


@pytest.mark.parametrize("policy_name", list(POLICIES.rows))
@pytest.mark.parametrize(("name", "settings"), dict(reversed(WORLDS)).items())  # the first settings of each
def test_silence_tells_neither_what_others_see_nor_who_is_there(name, settings, policy_name):
    names = TeamNames(
        env=name,
        env_config=settings,
        policy=policy_name,
        policy_config={"hidden_size": 16},
        channel="silent",
        channel_config={},
    )
    env = names.make_env()
    policy = names.make_policy(env, seed=0)
    played = Player(env, policy, seed=0).play(torch.arange(8), torch.zeros(8, dtype=torch.int64))
    whole = Moment(played.observations, played.alive[:, :-1], played.spawned[:, :-1], played.gates, None)
    i = env.spec.num_agents - 1
    seen, alive = whole.observations.roll(1, 0), torch.zeros_like(whole.alive)  # others see another world
    seen[:, :, i], alive[:, :, i] = whole.observations[:, :, i], whole.alive[:, :, i]
    assert not torch.equal(seen, whole.observations)
    with torch.no_grad():
        expected = policy(whole)
        for changed in ({"observations": seen}, {"alive": alive}, {"observations": seen, "alive": alive}):
            decision = policy(Moment(**(vars(whole) | changed)))
            for name in ("logits", "values", "gate_logits"):
                before, after = getattr(expected, name), getattr(decision, name)
                assert before is None or torch.equal(before[:, :, i], after[:, :, i]), (name, list(changed))
