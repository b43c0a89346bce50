"""Returns, advantages and losses against numbers worked by hand."""

import math

import pytest
import torch

from marlcomm.channels.ddcl import DDCLChannel
from marlcomm.channels.settings import DDCLSettings
from marlcomm.objectives.base import channel_loss
from marlcomm.objectives.ppo import PPO
from marlcomm.objectives.reinforce import Reinforce
from marlcomm.objectives.returns import advantages, discounted, goes_on, own_rewards
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.records import Decision, Moment, Talk
from marlcomm.policies.rollout import Rollout, entropies, log_probs

YES, NO = True, False


def column(*values):
    """One world, one agent slot, over time: [1, T, 1]."""
    return torch.tensor(values).view(1, -1, 1)


def ended(steps):
    return torch.zeros(1, steps, dtype=torch.bool)


def test_an_occupant_goes_on_until_it_dies_is_replaced_or_the_world_ends():
    alive = column(NO, YES, YES, YES, YES, NO)
    spawned = column(NO, YES, NO, YES, NO, NO)
    # 0: nobody acts; 1: stays; 2: replaced in the same step; 3: stays; 4: dies
    assert goes_on(alive, spawned, ended(5)).flatten().tolist() == [0, 1, 0, 1, 0]
    over = ended(5)
    over[0, 3] = True
    assert goes_on(alive, spawned, over).flatten().tolist() == [0, 1, 0, 0, 0]


def test_the_reward_of_a_new_occupant_is_not_its_predecessors():
    spawned = column(NO, NO, YES, NO)
    assert own_rewards(column(1.0, -10.0, 3.0), spawned).flatten().tolist() == [1.0, 0.0, 3.0]


def test_advantages_with_a_death_by_hand():
    gamma, lam = 0.9, 0.5
    rewards, values = column(1.0, 2.0, 3.0), column(0.5, 1.0, -1.0, 7.0)
    on, acts = column(1.0, 0.0, 1.0), column(YES, YES, YES)
    last = 3.0 + 0.9 * 7.0 - (-1.0)  # cut short by the horizon: bootstraps
    middle = 2.0 - 1.0  # died: neither bootstraps nor sees what came after
    first = (1.0 + 0.9 * 1.0 - 0.5) + 0.45 * middle
    estimates = advantages(rewards, values, on, acts, gamma, lam)
    assert estimates.flatten().tolist() == pytest.approx([first, middle, last])


def test_advantages_stop_where_a_world_ended_early():
    # The world was truncated after its second step: bootstrap from the value there, ignore the padding behind.
    estimates = advantages(
        column(1.0, 1.0, 99.0), column(0.0, 0.0, 5.0, 99.0), column(1.0, 1.0, 1.0), column(YES, YES, NO), 1.0, 1.0
    )
    assert estimates.flatten().tolist() == pytest.approx([1 + 1 + 5, 1 + 5, 0])


def test_monte_carlo_returns_by_hand():
    rewards, on = column(1.0, 2.0, 4.0), column(1.0, 0.0, 1.0)
    assert discounted(rewards, on, 0.5).flatten().tolist() == [2.0, 2.0, 4.0]
    assert discounted(rewards, None, 0.5).flatten().tolist() == [3.0, 4.0, 4.0]


def rollout(rewards, alive, spawned, values):
    """A rollout [B, T, N] with only what targets need."""
    rewards, alive, spawned, values = (torch.tensor(x) for x in (rewards, alive, spawned, values))
    worlds, steps, agents = rewards.shape
    empty = torch.zeros(worlds, steps, agents)
    return Rollout(
        worlds=torch.arange(worlds),
        episodes=torch.zeros(worlds, dtype=torch.int64),
        observations=empty.unsqueeze(-1),
        alive=alive,
        spawned=spawned,
        acts=alive[:, :-1],
        gates=None,
        gate_choices=None,
        actions=empty.long(),
        log_probs=empty,
        values=values,
        rewards=rewards,
        terminated=torch.zeros(worlds, steps, dtype=torch.bool),
        lengths=torch.full((worlds,), steps),
        talk=Talk(empty.unsqueeze(-1).int(), alive[:, :-1]),
        info={},
        seconds={},
        last=Moment(empty[:, 0].unsqueeze(-1), alive[:, -1], spawned[:, -1]),
        last_talk=Talk(empty[:, :1].unsqueeze(-1).int(), alive[:, -1:]),
    )


EXAMPLE = {
    # two agents; the second slot's car leaves in step 0 and a new one enters in the same step
    "rewards": [[[-1.0, -10.0], [-2.0, -0.5]]],
    "alive": [[[YES, YES], [YES, YES], [YES, NO]]],
    "spawned": [[[NO, NO], [NO, YES], [NO, NO]]],
    "values": [[[0.5, 1.0], [0.0, 2.0], [4.0, 8.0]]],
}


def ppo(**changes):
    settings = {
        "gamma": 1.0,
        "lam": 1.0,
        "clip": 0.2,
        "value_weight": 0.5,
        "entropy_weight": Schedule.of(0.0),
        "reward_scale": 1.0,
        "mean_ratio": 0.0,
    }
    return PPO(**(settings | changes))


def test_ppo_targets_by_hand():
    estimates, targets = ppo().targets(rollout(**EXAMPLE))
    # agent 0: returns -1 - 2 + 4 (bootstrap) = 1 and 2; agent 1: its -10 belongs to the newcomer, then -0.5 and death
    assert targets.tolist() == [[[1.0, 0.0], [2.0, -0.5]]]
    assert estimates.tolist() == [[[0.5, -1.0], [2.0, -2.5]]]
    _, shared = ppo(mean_ratio=0.5, lam=1.0).targets(rollout(**EXAMPLE))
    # half of one's own reward and half of the mean, -5.5 and then -1.25 (whoever left shares in its last step only)
    assert shared.tolist() == [[[-0.5 - 2.75 - 1.0 - 0.625 + 4.0, -2.75], [-1.0 - 0.625 + 4.0, -0.25 - 0.625]]]
    scaled, _ = ppo(reward_scale=0.1).targets(rollout(**EXAMPLE))
    assert scaled[0, 1, 1].item() == pytest.approx(-0.05 - 2.0)


def reinforce(**changes):
    settings = {
        "gamma": 1.0,
        "mean_ratio": 0.0,
        "value_weight": 0.01,
        "entropy_weight": Schedule.of(0.0),
        "reward_scale": 1.0,
    }
    return Reinforce(**(settings | changes))


def test_reinforce_targets_by_hand():
    estimates, returns = reinforce().targets(rollout(**EXAMPLE))
    assert returns.tolist() == [[[-3.0, 0.0], [-2.0, -0.5]]]  # no bootstrap at the horizon
    assert estimates.tolist() == [[[-3.5, -1.0], [-2.0, -2.5]]]
    _, shared = reinforce(mean_ratio=1.0).targets(rollout(**EXAMPLE))
    assert shared.tolist() == [[[-6.75, -6.75], [-1.25, -1.25]]]  # the mean over slots, everything counts, never cut


def decision(probabilities, values, gates=None):
    logits = torch.log(torch.tensor(probabilities)).requires_grad_()
    gate_logits = None if gates is None else torch.log(torch.tensor(gates))
    return Decision(logits, gate_logits, torch.tensor(values, requires_grad=True), Talk(torch.empty(0), torch.empty(0)))


BATCH = {
    "acts": torch.tensor([[[YES, YES], [YES, NO]]]),
    "actions": torch.tensor([[[0, 1], [1, 0]]]),
    "log_probs": torch.log(torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])),
    "advantages": torch.tensor([[[1.0, -2.0], [3.0, 100.0]]]),
    "value_targets": torch.tensor([[[1.0, 0.0], [2.0, 100.0]]]),
    "agent_steps": torch.tensor([3.0]),
    "env_steps": torch.tensor([2.0]),
}
ANSWER = ([[[[0.8, 0.2], [0.42, 0.58]], [[0.45, 0.55], [0.5, 0.5]]]], [[[0.0, 1.0], [2.0, 7.0]]])


def test_the_clipped_loss_by_hand():
    answer = decision(*ANSWER)
    loss = ppo(entropy_weight=Schedule.of(0.1)).loss(BATCH, answer, env_steps=0)
    # ratios 1.6, 1.16, 1.1; the first is clipped to 1.2
    gain = (1.2 - 2 * 1.16 + 3.3) / 3
    value = 0.5 * (1.0 + 1.0 + 0.0) / 3
    entropy = sum(-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.8, 0.42, 0.45)) / 3
    assert loss.total.item() == pytest.approx(-gain + 0.5 * value - 0.1 * entropy, rel=1e-5)
    assert loss.stats["loss/policy"].item() == pytest.approx(-gain, rel=1e-5)
    assert loss.stats["loss/value"].item() == pytest.approx(value, rel=1e-5)
    assert loss.stats["policy/entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert loss.stats["policy/clipped_fraction"].item() == pytest.approx(1 / 3)
    loss.total.backward()
    assert not answer.values.grad[0, 1, 1].any()  # whoever does not act teaches nothing


def test_a_clipped_gain_has_no_gradient():
    answer = decision(*ANSWER)
    ppo(value_weight=0.0).loss(BATCH, answer, 0).total.backward()
    assert not answer.logits.grad[0, 0, 0].any()  # ratio 1.6 with a positive advantage
    assert answer.logits.grad[0, 0, 1].any()  # ratio 1.16 with a negative one is still pushed down
    assert answer.logits.grad[0, 1, 0].any()


def test_the_reinforce_loss_by_hand():
    loss = reinforce().loss(BATCH, decision(*ANSWER), 0)
    gain = 1.0 * math.log(0.8) - 2.0 * math.log(0.58) + 3.0 * math.log(0.55)
    assert loss.total.item() == pytest.approx((-gain + 0.01 * (1.0 + 1.0 + 0.0)) / 2, rel=1e-5)  # env steps, not agents


@pytest.mark.parametrize("objective", [ppo, reinforce])
def test_the_entropy_bonus_follows_its_schedule(objective):
    falling = objective(entropy_weight=Schedule.of([[0, 0.4], [100, 0.0]]))
    for env_steps, weight in ((0, 0.4), (50, 0.2), (100, 0.0)):
        fixed = objective(entropy_weight=Schedule.of(weight)).loss(BATCH, decision(*ANSWER), 0).total
        assert falling.loss(BATCH, decision(*ANSWER), env_steps).total.item() == pytest.approx(fixed.item(), rel=1e-6)


def test_gates_are_part_of_the_action():
    answer = decision([[[[0.8, 0.2]]]], [[[0.0]]], gates=[[[[0.25, 0.75]]]])
    assert log_probs(answer, torch.tensor([[[0]]]), torch.tensor([[[True]]])).item() == pytest.approx(
        math.log(0.8 * 0.75)
    )
    both = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) - (0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropies(answer).item() == pytest.approx(both)


def test_channel_losses_are_bits_per_message():
    channel = DDCLChannel(1, DDCLSettings(rate_weight=0.5))
    rates = torch.tensor([[[2.0, 4.0], [6.0, 100.0]]], requires_grad=True)
    spoke = torch.tensor([[[YES, YES], [YES, YES]]])
    acts = torch.tensor([[[YES, YES], [YES, NO]]])
    loss = channel_loss(channel, Talk(torch.empty(0), spoke, {"rate": rates}), acts, torch.tensor(3.0))
    assert loss.total.item() == pytest.approx(0.5 * 4.0)
    assert loss.stats["channel/rate"].item() == pytest.approx(4.0)
    quiet = channel_loss(channel, Talk(torch.empty(0), ~spoke, {"rate": rates}), acts, torch.tensor(0.0))
    assert quiet.total.item() == 0.0


def test_shares_of_two_learners_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    shape = (6, 4, 3)
    batch = {
        "acts": torch.rand(shape, generator=generator) < 0.7,
        "actions": torch.randint(2, shape, generator=generator),
        "log_probs": -torch.rand(shape, generator=generator),
        "advantages": torch.randn(shape, generator=generator),
        "value_targets": torch.randn(shape, generator=generator),
    }
    batch["agent_steps"] = batch["acts"].sum().float().expand(6)
    batch["env_steps"] = torch.full((6,), 24.0)
    logits, values = torch.randn(*shape, 2, generator=generator), torch.randn(shape, generator=generator)

    def total(objective, rows):
        answer = Decision(logits[rows], None, values[rows], Talk(torch.empty(0), torch.empty(0)))
        return objective.loss({name: value[rows] for name, value in batch.items()}, answer, 0).total.item()

    for objective in (ppo(entropy_weight=Schedule.of(0.3)), reinforce(entropy_weight=Schedule.of(0.3))):
        whole = total(objective, slice(0, 6))
        assert total(objective, slice(0, 2)) + total(objective, slice(2, 6)) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("points", "step", "value"),
    [
        (0.3, 10**9, 0.3),
        ([[0, 1.0], [10, 0.0]], 0, 1.0),
        ([[0, 1.0], [10, 0.0]], 5, 0.5),
        ([[0, 1.0], [10, 0.0]], 99, 0.0),
        ([[10, 1.0], [20, 3.0], [40, 0.0]], 0, 1.0),
        ([[10, 1.0], [20, 3.0], [40, 0.0]], 15, 2.0),
        ([[10, 1.0], [20, 3.0], [40, 0.0]], 30, 1.5),
        ([[0, 1.0], [10, 1.0], [10, 5.0]], 10, 1.0),
        ([[0, 1.0], [10, 1.0], [10, 5.0]], 10.5, 5.0),
    ],
)
def test_schedules(points, step, value):
    assert Schedule.of(points).at(step) == pytest.approx(value)


def test_columns_mark_the_steps_that_were_played():
    played = rollout(**EXAMPLE)
    played = Rollout(**(vars(played) | {"lengths": torch.tensor([1])}))
    assert ppo().columns(played)["running"].tolist() == [[True, False]]
