"""Communicating Goal: rules, who may speak, what silence is worth, the lower curve, PettingZoo, pictures."""

import itertools

import numpy as np
import pytest
import torch
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

from marlcomm.analysis.lower_curve import entropy, least_bits, lower_hull, partitions, points, references
from marlcomm.envs import communicating_goal_v0
from marlcomm.envs.base import TeamSpec
from marlcomm.envs.cards import cards
from marlcomm.envs.communicating_goal.scripts import SCRIPTS
from marlcomm.envs.communicating_goal.settings import GOALS, CommunicatingGoalSettings
from marlcomm.envs.communicating_goal.walks import MOVES, Maps, Tours, cells, destinations
from marlcomm.envs.communicating_goal.world import LISTENER, SPEAKER, CommunicatingGoal
from marlcomm.objectives.ppo import PPO
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.evaluation import evaluate, evaluate_script
from marlcomm.policies.metering import count
from marlcomm.policies.records import Moment, Overheard
from marlcomm.policies.rollout import Player, channel_noise, entropies
from marlcomm.policies.team import TeamNames, make_meter
from marlcomm.registry import ENVS, ConfigError
from marlcomm.wire.alphabet import Alphabet
from marlcomm.wire.meter import BandwidthMeter

PUBLISHED = CommunicatingGoalSettings(horizon=50)
TINY = CommunicatingGoalSettings(size=3, horizon=5, goals=((0, 0), (2, 1), (1, 2)), weights=(3.0, 2.0, 2.0))
ORACLE = 0.9453  # expected return of a listener who sees the goal: 6.47 steps
TOUR = 0.8896  # of the best silent one in 50 steps


def world(**settings):
    return CommunicatingGoal(CommunicatingGoalSettings(**settings))


def start(env, count, seed=0, episode=0):
    return env.reset(seed, torch.arange(count), torch.full((count,), episode))


# --- rules -----------------------------------------------------------------------------------------------------------


class SlowGrid:
    """One world from the published rules: a walker, a goal, a clock."""

    def __init__(self, size, horizon, goal, listener):
        self.size, self.horizon, self.goal, self.listener = size, horizon, goal, listener
        self.time = 0

    def step(self, action):
        x, y = self.listener
        if action == 1:
            y = max(y - 1, 0)
        elif action == 2:
            y = min(y + 1, self.size - 1)
        elif action == 3:
            x = min(x + 1, self.size - 1)
        elif action == 4:
            x = max(x - 1, 0)
        self.listener = (x, y)
        self.time += 1
        arrived = self.listener == self.goal
        return (1.0 if arrived else -0.01), arrived, self.time == self.horizon and not arrived

    def observe(self):
        (x, y), (goal_x, goal_y), last = self.listener, self.goal, self.size - 1
        return [[1, 0, goal_x / last, goal_y / last, 0, 0], [0, 1, 0, 0, x / last, y / last]]


@pytest.mark.parametrize("settings", [{}, {"horizon": 50}, {"size": 3, "goals": [(0, 2), (1, 1)], "weights": [1, 1]}])
def test_batched_worlds_follow_the_rules(settings):
    """Whole episodes of eight worlds against the slow port, under random actions of both agents."""
    env = world(encoding="coordinates", **settings)
    now = start(env, 8, seed=3)
    size = env.settings.size
    slow = []
    for index in range(8):
        goal, cell = env.settings.goals[int(now.info["goal"][index])], int(env.cell[index])
        slow.append(SlowGrid(size, env.spec.horizon, goal, (cell % size, cell // size)))
    over = [False] * 8
    generator = torch.Generator().manual_seed(1)
    while not all(over):
        actions = torch.randint(0, 5, (8, 2), generator=generator)
        now = env.step(actions)
        for index, one in enumerate(slow):
            if over[index]:
                continue
            reward, arrived, cut = one.step(int(actions[index, LISTENER]))
            assert now.rewards[index].tolist() == pytest.approx([reward / 2, reward / 2])
            assert (bool(now.terminated[index]), bool(now.truncated[index])) == (arrived, cut)
            assert np.allclose(now.observations[index].numpy(), one.observe(), atol=1e-6)
            assert now.info["success"][index] == arrived
            assert now.info["steps_to_goal"][index] == one.time
            over[index] = arrived or cut
    assert now.alive.all()
    assert not now.spawned.any()


def test_what_the_speaker_does_moves_nobody():
    env = world()
    start(env, 50)
    before = env.cell
    env.step(torch.tensor([[3, 0]]).expand(50, 2))
    assert torch.equal(env.cell, before)


def test_goals_come_by_their_weights_and_listeners_anywhere_else():
    env = world()
    now = start(env, 40_000)
    drawn = torch.bincount(now.info["goal"].long(), minlength=6) / 40_000
    for share, chance in zip(drawn.tolist(), env.settings.chances, strict=True):
        assert abs(share - chance) <= 4 * (chance * (1 - chance) / 40_000) ** 0.5
    assert not env.reached.any()
    assert env.settings.chances[5] == pytest.approx(1 / 388)
    to_first = env.cell[now.info["goal"] == 0]
    counts = torch.bincount(to_first, minlength=64)
    assert counts[0] == 0
    expected = len(to_first) / 63
    assert float(((counts[1:] - expected) ** 2 / expected).sum()) < 62 + 4 * (2 * 62) ** 0.5  # chi-squared


def test_one_hot_encodings_are_rows_and_columns():
    env = world(encoding="one_hot", size=4, goals=[(3, 1)], weights=[1])
    now = start(env, 20)
    assert now.observations.shape == (20, 2, 2 + 4 * 4)
    assert now.observations[0, SPEAKER].tolist() == [1, 0] + [0, 0, 0, 1] + [0, 1, 0, 0] + [0] * 8
    x, y = int(env.cell[0]) % 4, int(env.cell[0]) // 4
    own = [float(index in (x, 4 + y)) for index in range(8)]
    assert now.observations[0, LISTENER].tolist() == [0, 1] + [0] * 8 + own


def test_nothing_counts_after_the_goal():
    env = world()
    start(env, 30)
    for time in range(1, 15):
        now = env.step(SCRIPTS["oracle"](env))
        over = now.info["distance"] < time
        assert not now.rewards[over].any()
    assert over.any()
    assert now.terminated.all()
    assert not now.truncated.any()
    assert torch.equal(now.info["steps_to_goal"], now.info["distance"])
    figures = evaluate_script(env, SCRIPTS["oracle"], 0, 300)
    assert figures["length"] == figures["steps_to_goal"] == figures["distance"]
    assert figures["return"] == pytest.approx(1 - 0.01 * (figures["length"] - 1), abs=1e-5)


def test_no_share_of_rewards_changes_what_is_learned():
    """Each slot gets half of the team's reward, so individual rewards and the mean of the team are the same."""
    env, policy = team("transformer", "continuous")
    played = Player(env, policy, 0).play(torch.arange(50), torch.zeros(50, dtype=torch.int64))
    alone, shared = (
        PPO(0.99, 0.95, 0.2, 0.5, Schedule.of(0.0), reward_scale=1.0, mean_ratio=ratio).targets(played)
        for ratio in (0.0, 1.0)
    )
    assert torch.equal(alone[0], shared[0])
    total = played.rewards.sum((1, 2))
    expected = torch.where(played.info["success"] == 1, 1 - 0.01 * (played.lengths - 1), -0.14)
    assert torch.allclose(total, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"goals": [[0, 0], [8, 3]], "weights": [1, 1]},
            r"goals\.1: got \[8, 3\], wanted .* 0\.\.7 \(nearest: \[7, 3\]",
        ),
        ({"goals": [[0, 0], [0, 0]], "weights": [1, 1]}, r"goals\.1: \[0, 0\] is among the goals already"),
        ({"weights": [1, 1]}, "weights: got 2 of them, wanted one for each of 6 goals"),
        ({"weights": [1, 1, 1, 0, 1, 1]}, r"env\.weights\.3: got 0.*greater than 0"),
        ({"weights": [1, 1, 1, True, 1, 1]}, r"env\.weights\.3"),
        ({"goals": [[0, 0.5]], "weights": [1]}, r"env\.goals\.0\.1"),
        ({"goals": [], "weights": []}, r"env\.goals: .* at least 1 item"),
        ({"size": 1}, r"env\.size"),
        ({"horizon": 0}, r"env\.horizon"),
        ({"encoding": "onehot"}, r"env\.encoding"),
        ({"horizn": 3}, "did you mean 'horizon'"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        ENVS.check("communicating_goal", settings)


def test_settings_that_change_the_score_change_the_setting():
    assert PUBLISHED.setting == "8x8-horizon50"
    doubled = CommunicatingGoalSettings(weights=[2 * weight for weight in PUBLISHED.weights])
    assert doubled.setting == "8x8-horizon14"
    others = [{"weights": (50, 1, 25, 2, 1, 1)}, {"goals": (*GOALS[:5], (6, 2))}, {"goals": GOALS[:1], "weights": [1]}]
    names = {CommunicatingGoalSettings(**other).setting for other in others}
    assert len(names) == 3
    assert all(name.startswith("8x8-horizon14-") for name in names)
    assert CommunicatingGoalSettings(encoding="coordinates").setting == "8x8-horizon14"


# --- who may speak ---------------------------------------------------------------------------------------------------

POLICIES = {
    "ic3net": {"hidden_size": 16, "message_size": 4},
    "ic3net-open": {"hidden_size": 16, "message_size": 4, "force_gate_open": True},
    "transformer": {"hidden_size": 16, "width": 8, "message_size": 4},
    "transformer-deep": {"hidden_size": 16, "width": 8, "message_size": 4, "layers": 3},
    "transformer-feedforward": {"hidden_size": 16, "width": 8, "message_size": 4, "recurrent": False},
}


def team(policy="transformer", channel="ddcl", **settings):
    names = TeamNames("communicating_goal", settings, policy.partition("-")[0], POLICIES[policy], channel, {})
    env = names.make_env()
    return env, names.make_policy(env, seed=0)


def moments(policy, played):
    noise = channel_noise(policy.channel, 0, "train", played.worlds, played.episodes, *played.acts.shape[1:])
    return Moment(played.observations, played.alive[:, :-1], played.spawned[:, :-1], played.gates, noise)


def at(moment, time):
    return Moment(*(None if part is None else part[:, time] for part in vars(moment).values()))


def rollout(env, policy, worlds=40):
    return Player(env, policy, 0).play(torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64))


@pytest.mark.parametrize("name", ["speakers", "actors"])
def test_who_may_do_what_must_fit_the_team(name):
    with pytest.raises(ValueError, match=f"{name} must say yes or no for each of 3 slots"):
        TeamSpec("x", 3, 2, 2, 5, "s", **{name: (True, False)})


@pytest.mark.parametrize("policy_name", POLICIES)
def test_nothing_is_learned_from_actions_that_move_nobody(policy_name):
    """The speaker has one action, the listener's gate is shut: certain, and without a gradient."""
    env, policy = team(policy_name)
    played = rollout(env, policy)
    assert not played.actions[:, :, SPEAKER].any()
    assert len(played.actions[:, :, LISTENER].unique()) == 5
    decision = policy(moments(policy, played))
    action = torch.log_softmax(decision.logits, -1)[..., 0]
    assert not action[:, :, SPEAKER].any()
    assert action[:, :, LISTENER].all()
    certain = [action[:, :, SPEAKER].sum()]
    if decision.gate_logits is None:
        assert not played.log_probs[:, :, SPEAKER].any()
        assert not entropies(decision)[:, :, SPEAKER].any()
    else:
        gate = torch.log_softmax(decision.gate_logits, -1)
        assert not gate[:, :, LISTENER, 0].any()
        assert not played.gate_choices[:, :, LISTENER].any()
        assert played.gate_choices[:, :, SPEAKER].any()
        assert torch.allclose(entropies(decision)[:, :, SPEAKER], -(gate.exp() * gate).sum(-1)[:, :, SPEAKER])
        certain.append(gate[:, :, LISTENER, 0].sum())
    for gradient in torch.autograd.grad(sum(certain), list(policy.parameters()), allow_unused=True):
        assert gradient is None or not gradient.any()


@pytest.mark.parametrize("policy_name", POLICIES)
def test_only_the_speaker_speaks(policy_name):
    env, policy = team(policy_name)
    played = rollout(env, policy)
    expected = played.alive[:, :-1] if played.gates is None else played.gates & played.alive[:, :-1]
    assert torch.equal(played.talk.spoke[..., SPEAKER], expected[..., SPEAKER])
    assert played.talk.spoke[..., SPEAKER].any()
    assert not played.talk.spoke[..., LISTENER].any()


@pytest.mark.parametrize("policy_name", POLICIES)
def test_the_speaker_learns_nothing_of_the_listener(policy_name):
    """Change what the listener sees at every step: the speaker does not notice, bit for bit."""
    env, policy = team(policy_name)
    whole = moments(policy, rollout(env, policy))
    seen = whole.observations.clone()
    seen[:, :, LISTENER] = torch.rand(seen[:, :, LISTENER].shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, decision = policy(whole), policy(Moment(**(vars(whole) | {"observations": seen})))
    for name in ("logits", "values", "gate_logits"):
        before, after = getattr(expected, name), getattr(decision, name)
        if before is not None:
            assert torch.equal(before[:, :, SPEAKER], after[:, :, SPEAKER]), name
            assert not torch.equal(before[:, :, LISTENER], after[:, :, LISTENER]), name
    assert torch.equal(expected.talk.symbols[:, :, SPEAKER], decision.talk.symbols[:, :, SPEAKER])


@pytest.mark.parametrize("channel", ["continuous", "ddcl"])
@pytest.mark.parametrize("policy_name", POLICIES)
def test_the_listener_knows_of_the_goal_what_it_hears_and_nothing_else(policy_name, channel):
    """Change what the speaker sees at every step, replay its recorded words: the listener does not notice."""
    env, policy = team(policy_name, channel)
    played = rollout(env, policy)
    whole = moments(policy, played)
    seen = whole.observations.clone()
    seen[:, :, SPEAKER] = torch.rand(seen[:, :, SPEAKER].shape, generator=torch.Generator().manual_seed(1))
    disturbed = Moment(**(vars(whole) | {"observations": seen}))
    replaced = torch.zeros(40, 2, dtype=torch.bool)
    replaced[:, SPEAKER] = True
    memory, other_memory = policy.begin(40), policy.begin(40)
    with torch.no_grad():
        for time in range(env.spec.horizon):
            said = Overheard(played.talk.symbols[:, time], replaced)
            expected, memory = policy.step(at(whole, time), memory, said)
            decision, other_memory = policy.step(at(disturbed, time), other_memory, said)
            assert torch.equal(expected.logits[:, LISTENER], decision.logits[:, LISTENER])
            assert torch.equal(expected.values[:, LISTENER], decision.values[:, LISTENER])
            assert not torch.equal(expected.logits[:, SPEAKER], decision.logits[:, SPEAKER])
        spoken = policy(disturbed)
    assert not torch.equal(spoken.logits[:, :, LISTENER], policy(whole).logits[:, :, LISTENER])


@pytest.mark.parametrize("policy_name", POLICIES)
def test_silence_is_silent(policy_name):
    """Under `silent` no gradient of the listener's outputs reaches what the speaker sees."""
    env, policy = team(policy_name, "silent")
    whole = moments(policy, rollout(env, policy, worlds=4))
    seen = whole.observations.clone().requires_grad_()
    decision = policy(Moment(**(vars(whole) | {"observations": seen})))
    outputs = [decision.logits[:, :, LISTENER].square().sum(), decision.values[:, :, LISTENER].sum()]
    (gradient,) = torch.autograd.grad(sum(outputs), seen)
    assert gradient[:, :, LISTENER].abs().sum() > 0
    assert not gradient[:, :, SPEAKER].any()
    assert not decision.talk.spoke.any()


@pytest.mark.parametrize("policy_name", POLICIES)
def test_the_listeners_loss_reaches_the_speaker(policy_name):
    env, policy = team(policy_name)
    whole = moments(policy, rollout(env, policy))
    gates = None if whole.gates is None else torch.ones_like(whole.gates)
    seen = whole.observations.clone().requires_grad_()
    decision = policy(Moment(**(vars(whole) | {"observations": seen, "gates": gates})))
    (gradient,) = torch.autograd.grad(decision.logits[:, :, LISTENER].square().sum(), seen, retain_graph=True)
    assert gradient[:, :, SPEAKER].abs().sum() > 0
    (gradient,) = torch.autograd.grad(decision.logits[:, :, SPEAKER].square().sum(), seen)
    assert not gradient[:, :, LISTENER].any()


@pytest.mark.parametrize("gated", [False, True])
def test_agent_steps_are_those_of_speakers_by_hand(gated):
    meter = BandwidthMeter(Alphabet.fixed([16]), gated=gated, speakers=(True, False, True))
    symbols = np.zeros((1, 2, 3, 1), np.int32)
    acts = np.array([[[True, True, False], [True, True, True]]])
    spoke = np.array([[[True, False, True], [False, False, True]]])
    counts = meter.count(symbols, spoke, acts, env_steps=2, episodes=1)
    # rights to speak: 1, then 2; sent: by slot 0 to one listener, then by slot 2 to two
    assert counts.agent_steps == 3
    assert counts.messages == 2
    assert counts.prefix_bits == 8 + 3 * gated
    assert counts.received_bits == 4 * 1 + 4 * 2 + (1 + 2 + 2) * gated
    assert meter.report(counts)["messages_per_agent_step"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("policy_name", ["ic3net", "transformer"])
def test_a_rollouts_agent_steps_are_the_speakers(policy_name):
    env, policy = team(policy_name)
    played = rollout(env, policy)
    counts = count(make_meter(policy), played)
    assert counts.agent_steps == counts.env_steps == int(played.lengths.sum())
    presence = counts.agent_steps if policy.gated else 0
    assert counts.received_bits == counts.prefix_bits > presence  # one listener hears everything
    figures = evaluate(env, policy, 0, 40)
    assert figures["prefix_bits_per_agent_step"] == figures["prefix_bits_per_env_step"]
    if not policy.gated:
        assert figures["messages_per_agent_step"] == 1


def test_where_all_may_speak_nothing_changes():
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, 4, (6, 50, 3, 2)).astype(np.int32)
    spoke, acts = rng.random((6, 50, 3)) < 0.7, rng.random((6, 50, 3)) < 0.8
    everybody = BandwidthMeter(Alphabet.fixed([4, 4]), gated=True, speakers=(True,) * 3)
    unnamed = BandwidthMeter(Alphabet.fixed([4, 4]), gated=True)
    assert everybody.count(symbols, spoke, acts, 300, 6) == unnamed.count(symbols, spoke, acts, 300, 6)


# --- what silence is worth -------------------------------------------------------------------------------------------


def walk(settings, cell, actions):
    """The cells after each of some actions."""
    led = destinations(settings.size)
    for action in actions:
        cell = int(led[cell, action])
        yield cell


def worth(settings, start, visited, block):
    """The return, weighted by chances, of a walk through cells where the goal is one of a block and not the start."""
    total = 0.0
    for goal in block:
        place = settings.goals[goal][1] * settings.size + settings.goals[goal][0]
        if place != start:
            reward = 1 - 0.01 * visited.index(place) if place in visited else -0.01 * settings.horizon
            total += settings.chances[goal] * reward
    return total


@pytest.mark.parametrize("block", [(0, 1, 2), (0, 2), (1,)])
@pytest.mark.parametrize("horizon", [2, 5])
def test_tours_are_the_best_of_all_walks(block, horizon):
    """Against every sequence of actions from every start of a small grid."""
    settings = TINY.model_copy(update={"horizon": horizon})
    expected = sum(
        max(
            worth(settings, cell, list(walk(settings, cell, actions)), block)
            for actions in itertools.product(range(5), repeat=horizon)
        )
        for cell in range(9)
    )
    assert Tours(settings).outcome(block).reward == pytest.approx(expected / 8)


def test_maps_are_the_best_of_all_maps():
    """Against every map of a grid of four cells, in a case where a memory would help."""
    settings = CommunicatingGoalSettings(size=2, horizon=4, goals=((0, 0), (1, 0), (0, 1)), weights=(3.0, 2.0, 2.0))
    led = destinations(2)

    def value(chosen):
        total = 0.0
        for cell in range(4):
            visited, place = [], cell
            for _ in range(4):
                place = int(led[place, chosen[place]])
                visited.append(place)
            total += worth(settings, cell, visited, (0, 1, 2))
        return total / 3

    best = max(value(chosen) for chosen in itertools.product(range(5), repeat=4))
    found = Maps(settings).outcome((0, 1, 2))
    assert found.reward == pytest.approx(best)
    assert found.reward == pytest.approx(value(Maps(settings).best((0, 1, 2))))
    assert found.reward <= Tours(settings).outcome((0, 1, 2)).reward + 1e-9


@pytest.mark.parametrize("horizon", [14, 50])
def test_the_tour_walks_what_it_promises(horizon):
    """Every start and goal of the published grid, step by step by the script's table of moves."""
    settings = CommunicatingGoalSettings(horizon=horizon)
    moves, goals = Tours(settings).moves(), range(6)
    total = sum(worth(settings, cell, list(walk(settings, cell, moves[cell])), goals) for cell in range(64))
    assert total / 63 == pytest.approx(Tours(settings).outcome(goals).reward)


def test_moves_lead_where_they_say():
    led = destinations(3)
    for number, (x, y) in enumerate(cells(TINY)):
        assert y * 3 + x == number
        for action, (right, down) in enumerate(MOVES):
            to_x, to_y = min(max(x + right, 0), 2), min(max(y + down, 0), 2)
            assert led[number, action] == to_y * 3 + to_x


def test_exact_references_are_the_published_ones():
    silent, oracle = references(PUBLISHED)
    assert oracle == pytest.approx(ORACLE, abs=5e-5)
    assert silent == pytest.approx(TOUR, abs=5e-5)
    assert Tours(PUBLISHED).outcome(range(6)).success == pytest.approx(1.0)
    assert references(CommunicatingGoalSettings())[1] == pytest.approx(oracle)  # nobody needs more than 14 steps
    weighted = sum(Tours(PUBLISHED).outcome([goal]).steps for goal in range(6))
    assert weighted == pytest.approx(6.47, abs=0.005)


@pytest.mark.parametrize(
    ("horizon", "script", "success", "returns", "steps"),
    [
        (50, "oracle", 1.0, 0.945, 6.47),
        (50, "tour", 1.0, 0.890, None),
        (14, "oracle", 1.0, 0.945, 6.47),
        # 0.515 for the goal it walks to, and what lies on its way along the rows: (3,4) for 4 of 63 starts,
        # (4,3) for 3, (1,6) for 6, (6,1) for 1.
        (14, "likeliest_goal", (200 + (50 * 4 + 25 * 3 + 12 * 6 + 1 * 1) / 63) / 388, None, None),
    ],
)
def test_scripts_score_as_published(horizon, script, success, returns, steps):
    env = world(horizon=horizon)
    figures = evaluate_script(env, env.scripts()[script], 0, 8000)
    assert abs(figures["success"] - success) <= 3 * figures["success_standard_error"] + 0.0005
    if returns is not None:
        assert abs(figures["return"] - returns) <= 3 * figures["return_standard_error"] + 0.0005
    if steps is not None:
        # The return of a team that always arrives is 1.01 less a hundredth of its steps.
        assert abs(figures["length"] - steps) <= 300 * figures["return_standard_error"] + 0.005


def test_scripts_are_ordered():
    env = world()
    scores = {name: evaluate_script(env, script, 0, 4000)["return"] for name, script in env.scripts().items()}
    ordered = ["random", "likeliest_goal", "memoryless", "tour", "oracle"]
    assert sorted(scores, key=scores.get) == ordered
    assert scores["memoryless"] > 0.55  # a search that is better than walking to one goal


def test_the_card_is_measured():
    stored = cards("communicating_goal")
    assert set(stored) == {"8x8-horizon14", "8x8-horizon50"}
    for name, card in stored.items():
        assert (card["floor"], card["ceiling"]) == ("tour", "oracle")
        settings = CommunicatingGoalSettings(**card["settings"])
        assert settings.setting == name
        for script, exact in zip(("tour", "oracle"), references(settings), strict=True):
            measured = card["references"][script]
            assert abs(measured["return"] - exact) <= 4 * measured["return_standard_error"] + 1e-4
    assert world(horizon=50).spec.card == stored["8x8-horizon50"]
    assert world(weights=(1, 1, 1, 1, 1, 1)).spec.card is None


# --- the lower curve -------------------------------------------------------------------------------------------------


def test_there_is_no_curve_where_names_are_worth_nothing():
    settings = CommunicatingGoalSettings(goals=((0, 0), (7, 7), (0, 7)), weights=(2, 1, 1), horizon=3)
    with pytest.raises(ConfigError, match="naming is worth nothing"):
        points(settings)


def test_partitions_are_counted_by_bell_numbers():
    for items, number in enumerate([1, 1, 2, 5, 15, 52, 203]):
        found = list(partitions(items))
        assert len(found) == len({frozenset(map(frozenset, partition)) for partition in found}) == number
        assert all(sorted(item for block in partition for item in block) == list(range(items)) for partition in found)


@pytest.mark.parametrize("horizon", [14, 50])
def test_the_curve_ends_at_silence_and_the_oracle(horizon):
    settings = CommunicatingGoalSettings(horizon=horizon)
    found = {point.partition: point for point in points(settings)}
    assert len(found) == 203
    silent, told = found[(tuple(range(6)),)], found[tuple((goal,) for goal in range(6))]
    assert (silent.bits_per_episode, silent.bits_per_message) == (0, 0)
    assert silent.normalized_return == pytest.approx(0)
    assert told.normalized_return == pytest.approx(1)
    assert told.bits_per_episode == pytest.approx(1.810, abs=5e-4)
    assert told.bits_per_message == pytest.approx(1.620, abs=5e-4)
    assert told.steps == pytest.approx(6.47, abs=0.005)
    best, cheapest = max(found.values(), key=lambda p: p.reward), min(found.values(), key=lambda p: p.reward)
    assert best.reward == pytest.approx(told.reward)
    assert cheapest.reward == pytest.approx(silent.reward)


def test_telling_more_never_hurts():
    found = {frozenset(map(frozenset, point.partition)): point for point in points(CommunicatingGoalSettings())}
    for partition, point in found.items():
        for pair in itertools.combinations(partition, 2):
            merged = found[(partition - set(pair)) | {pair[0] | pair[1]}]
            assert merged.reward <= point.reward + 1e-12
            assert merged.bits_per_episode < point.bits_per_episode


@pytest.mark.parametrize("weighting", ["episode", "message"])
@pytest.mark.parametrize("horizon", [14, 50])
def test_no_partition_lies_below_the_hull(weighting, horizon):
    found = points(CommunicatingGoalSettings(horizon=horizon))
    hull = lower_hull(found, weighting)
    assert (hull[0].bits(weighting), hull[-1].normalized_return) == (0, pytest.approx(1))
    slopes = [
        (b.bits(weighting) - a.bits(weighting)) / (b.normalized_return - a.normalized_return)
        for a, b in itertools.pairwise(hull)
    ]
    assert slopes == sorted(slopes)
    assert slopes[0] > 0
    for point in found:
        assert point.bits(weighting) >= least_bits(hull, point.normalized_return - 1e-12, weighting) - 1e-9
    assert least_bits(hull, -0.5, weighting) == 0
    assert least_bits(hull, 1.01, weighting) == float("inf")
    halfway = least_bits(hull, 0.5, weighting)
    assert 0 < halfway < least_bits(hull, 0.9, weighting) < entropy(PUBLISHED.weights)


def test_a_curve_by_hand():
    """Two goals at the ends of a street that is too long to try both: telling which is worth all that is lost."""
    settings = CommunicatingGoalSettings(size=3, horizon=2, goals=((0, 0), (2, 2)), weights=(3.0, 1.0))
    silent, told = points(settings)
    assert silent.partition == ((0, 1),)
    assert told.bits_per_episode == pytest.approx(entropy((3, 1))) == pytest.approx(0.8113, abs=5e-5)
    # Two cells lie one step from each goal and three two steps, three of those between both; from the three further
    # ones, the other goal among them, nobody arrives. Silent, the three cells between choose the likelier goal.
    arrives = (2 * 1.0 + 3 * 0.99 + 3 * -0.02) / 8
    misses = (2 * 1.0 + 6 * -0.02) / 8
    assert told.reward == pytest.approx(arrives)
    assert silent.reward == pytest.approx(0.75 * arrives + 0.25 * misses)
    assert silent.steps == pytest.approx(0.75 * (2 + 12) / 8 + 0.25 * (2 + 12) / 8)


def test_listeners_without_a_memory_need_more():
    with_memory, without = (points(TINY, listener) for listener in ("memory", "memoryless"))
    for better, worse in zip(with_memory, without, strict=True):
        assert better.partition == worse.partition
        assert worse.reward <= better.reward + 1e-9
    assert without[-1].normalized_return == pytest.approx(1)
    assert without[0].normalized_return < 0  # a clock is worth something


# --- faces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"horizon": 50, "encoding": "coordinates"}])
def test_pettingzoo_accepts_it(settings, capsys):
    parallel_api_test(communicating_goal_v0.parallel_env(**settings), num_cycles=110)
    parallel_seed_test(lambda: communicating_goal_v0.parallel_env(**settings))
    api_test(communicating_goal_v0.env(**settings), num_cycles=200)


def test_the_pettingzoo_face_is_the_same_world():
    face, env = communicating_goal_v0.parallel_env(), world()
    observations, infos = face.reset(seed=3)
    now = env.reset(3, torch.tensor([0]), torch.tensor([0]), stream="pettingzoo")
    while face.agents:
        moves = SCRIPTS["oracle"](env)[0].tolist()
        observations, rewards, terminated, truncated, infos = face.step(dict(zip(face.agents, moves, strict=True)))
        now = env.step(torch.tensor([moves]))
        assert np.array_equal(np.stack(list(observations.values())), now.observations[0].numpy())
        assert list(rewards.values()) == now.rewards[0].tolist()
    assert all(terminated.values())
    assert not any(truncated.values())
    assert infos["agent_1"]["success"] == 1
    assert infos["agent_1"]["steps_to_goal"] == env.time
    assert GOALS[int(infos["agent_0"]["goal"])] in GOALS
    with pytest.raises(ConfigError, match="did you mean 'horizon'"):
        communicating_goal_v0.parallel_env(horizn=3)


def test_pictures_show_the_walker_its_way_and_the_goal():
    env = world()
    now = start(env, 20, seed=5)
    pictures = [env.render(index) for index in range(2)]
    assert pictures[0].dtype == np.uint8
    assert pictures[0].shape == (636, 560, 3)
    assert not np.array_equal(*pictures)
    far = int(now.info["distance"].argmax())
    before = env.render(far)
    glow = (np.abs(before.astype(int) - [255, 246, 170]) < 40).all(-1)
    x, y = env.settings.goals[int(now.info["goal"][far])]
    rows, columns = np.nonzero(glow[:560])
    assert np.abs(np.array([columns.mean() / 70 - 0.5 - x, rows.mean() / 70 - 0.5 - y])).max() < 0.4
    env.step(SCRIPTS["oracle"](env))
    stepped = env.render(far)
    assert 0.002 < (stepped != before).any(-1).mean() < 0.1  # the walker, two footprints, the numbers below
