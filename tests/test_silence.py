"""Silence in every world, under every policy: nobody acts on what another one sees, or on who else is there."""

import pytest
import torch

from marlcomm.policies.base import Moment
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ENVS, POLICIES

SETTINGS = {
    "lewis_game": {"training_rounds": 64, "validation_rounds": 16, "steps": 3},
    "pettingzoo": None,  # a world of somebody else's: its own tests silence it
    "predator_prey": {"difficulty": "easy"},
}
OURS = [name for name, row in ENVS.rows.items() if str(row.target).startswith("marlcomm.")]  # tests register others
WORLDS = {name: SETTINGS.get(name, {}) for name in OURS if SETTINGS.get(name, {}) is not None}


@pytest.mark.parametrize("policy_name", list(POLICIES.rows))
@pytest.mark.parametrize("world", WORLDS)
def test_nobody_acts_on_what_another_one_sees_or_on_who_is_there(world, policy_name):
    names = TeamNames(
        env=world,
        env_config=WORLDS[world],
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
