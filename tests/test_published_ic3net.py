"""IC3Net with `legacy` is the published code: its forward pass and loss, written out agent by agent in float64."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learning import normalize_advantages

from marlcomm.algorithms.build import algorithm_config
from marlcomm.algorithms.settings import IC3NetTraining
from marlcomm.analysis.evaluation import team_names
from marlcomm.config import experiment, read
from marlcomm.objectives.reinforce import Reinforce
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.metering import TalkMeter
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player
from marlcomm.policies.settings import CommNetSettings, IC3NetSettings
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError
from marlcomm.rllib.rows import epoch_rows

DETACH_GAP, VALUE_WEIGHT = 4, 0.01
WORLDS = 12


def team(world, policy_name="ic3net", channel="continuous", **settings):
    env_config = {
        "junction": {"add_rate": 0.5, "legacy": True},
        "mixed": {"horizon": 12},
        "competitive": {"horizon": 12, "rewards": "competitive"},
    }[world]
    names = TeamNames(
        "traffic_junction" if world == "junction" else "predator_prey",
        env_config,
        policy_name,
        {"hidden_size": 6, "detach_every": DETACH_GAP, **settings},
        channel,
        {},
    )
    env = names.make_env()
    return env, names.make_policy(env, seed=0)


def rollout(env, policy, worlds=WORLDS):
    return Player(env, policy, seed=0).play(torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64))


def objective(settings, mean_ratio):
    return Reinforce(
        gamma=settings.gamma,
        mean_ratio=mean_ratio,
        value_weight=settings.vf_loss_coeff,
        entropy_weight=Schedule.of(0.0),
        reward_scale=1.0,
        normalizes_advantages=settings.normalize_rewards,
        slot_returns=settings.slot_returns,
        post_step_mask=settings.post_step_mask,
    )


def our_gradient(env, policy, played, mean_ratio=0.0, **settings):
    """The gradient of the platform's own loss, in float64, on the rows that a learner is given."""
    policy = policy.double()
    moment = Moment(played.observations.double(), played.alive[:, :-1], played.spawned[:, :-1], played.gates)
    decision = policy(moment)
    values = torch.cat([decision.values.detach(), played.values[:, -1:].double()], dim=1)
    recorded = replace(played, values=values, rewards=played.rewards.double())
    goal = objective(IC3NetTraining(**settings), mean_ratio)
    batch = goal.columns(recorded)
    if goal.normalizes_advantages:
        normalize_advantages(batch, goal.normalized_over(batch), goal.sample_deviation)
    counts = epoch_rows(batch, 0, 0, 0, minibatches=1, learners=1)
    batch["env_steps"], batch["agent_steps"] = counts["env_steps"], counts["agent_steps"]
    goal.loss(batch, decision, 0).total.backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


class Published:
    """The published trainer, one world, one step and one agent after the other (`comm.py`, `trainer.py`)."""

    def __init__(self, env, policy, comm_action_one, mean_ratio, normalize=False, hard_attention=True):
        self.env, self.comm_action_one, self.mean_ratio = env, comm_action_one, mean_ratio
        self.normalize, self.hard_attention = normalize, hard_attention
        self.weights = {k: v.detach().double().requires_grad_() for k, v in policy.named_parameters()}

    def linear(self, name, x):
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]

    def lstm(self, x, hidden, cell):
        w = self.weights
        gates = w["core.cell.weight_ih"] @ x + w["core.cell.bias_ih"]
        gates = gates + w["core.cell.weight_hh"] @ hidden + w["core.cell.bias_hh"]
        i, f, g, o = gates.chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def message(self, i, hidden, alive, talks):
        """C(sum over j of g_i g_j a_i a_j h_j / (living - 1)), without the divisor where nobody else lives."""
        heard = torch.zeros_like(hidden[i])
        for j in range(len(hidden)):
            if j != i and alive[i] and alive[j] and talks[i] and talks[j]:
                heard = heard + hidden[j] / (max(sum(alive) - 1, 1))
        return self.linear("from_message", heard)

    def episode(self, played, world):
        """Log-probabilities and values [T, N] of recorded actions, by a forward pass with gradient."""
        slots, size = self.env.spec.num_agents, self.weights["core.cell.weight_hh"].shape[1]
        hidden = [torch.zeros(size, dtype=torch.float64) for _ in range(slots)]
        cell = list(hidden)
        talks = [not self.hard_attention] * slots
        log_probs, values = [], []
        for t in range(int(played.lengths[world])):
            alive = played.alive[world, t].tolist()
            heard = [self.message(i, hidden, alive, talks) for i in range(slots)]
            steps = []
            for i in range(slots):
                seen = self.linear("encoder", self.observation(played, world, t, i))
                steps.append(self.lstm(seen + heard[i], hidden[i], cell[i]))
            hidden, cell = [h for h, _ in steps], [c for _, c in steps]
            chosen = []
            for i in range(slots):
                total = torch.log_softmax(self.linear("action_head", hidden[i]), 0)[played.actions[world, t, i]]
                if self.hard_attention:
                    gate = int(played.gate_choices[world, t, i])
                    total = total + torch.log_softmax(self.linear("gate_head", hidden[i]), 0)[gate]
                chosen.append(total)
            log_probs.append(torch.stack(chosen))
            values.append(torch.stack([self.linear("value_head", h)[0] for h in hidden]))
            if self.hard_attention:
                talks = [self.comm_action_one or bool(c) for c in played.gate_choices[world, t].tolist()]
            if (t + 1) % DETACH_GAP == 0:
                hidden, cell = [h.detach() for h in hidden], [c.detach() for c in cell]
        return torch.stack(log_probs), torch.stack(values)

    def observation(self, played, world, t, i):
        seen = played.observations[world, t, i].double()
        return seen if self.env.spec.indexed is None else self.env.spec.indexed.dense(seen)

    def returns(self, played, world):
        """[T, N], backwards: cooperative ones are never cut, own ones where a car has completed its route."""
        steps, slots = int(played.lengths[world]), self.env.spec.num_agents
        cooperative, own = [0.0] * slots, [0.0] * slots
        found = [[0.0] * slots for _ in range(steps)]
        for t in reversed(range(steps)):
            for i in range(slots):
                reward = float(played.rewards[world, t, i].double())
                was, stays = bool(played.alive[world, t, i]), bool(played.alive[world, t + 1, i])
                completed = was and (not stays or bool(played.spawned[world, t + 1, i]))
                last = t == steps - 1
                cooperative[i] = reward + (0.0 if last else cooperative[i])
                own[i] = reward + (0.0 if last or completed else own[i])
            mean = sum(cooperative) / slots
            found[t] = [self.mean_ratio * mean + (1 - self.mean_ratio) * own[i] for i in range(slots)]
        return torch.tensor(found, dtype=torch.float64)

    def gradient(self, played):
        parts = [(*self.episode(played, world), self.returns(played, world)) for world in range(len(played.worlds))]
        advantages = [returns - values.detach() for _, values, returns in parts]
        if self.normalize:
            everything = torch.cat(advantages)
            advantages = [(a - everything.mean()) / everything.std() for a in advantages]
        loss = 0.0
        for world, (log_probs, values, returns) in enumerate(parts):
            alive_after = played.alive[world, 1 : len(values) + 1].double()  # of the info that the step returned
            action_loss = (-advantages[world] * log_probs * alive_after).sum()
            value_loss = ((values - returns).square() * alive_after).sum()
            loss = loss + action_loss + VALUE_WEIGHT * value_loss
        (loss / played.env_steps).backward()
        return {name: w.grad for name, w in self.weights.items() if w.grad is not None}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 1e-5, name
        assert torch.allclose(ours[name], gradient, rtol=1e-6, atol=1e-6), name
        assert (ours[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


@pytest.mark.parametrize("mean_ratio", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("normalize", [False, True])
def test_forced_gates_have_the_published_gradient(mean_ratio, normalize):
    """Traffic Junction: cars come and go, and the gate's noise is in the gradient although nothing obeys it."""
    env, policy = team("junction", legacy=True, force_gate_open=True)
    played = rollout(env, policy)
    assert played.gates is None
    assert played.gate_choices is not None
    assert (played.spawned[:, 1:] & played.alive[:, :-1]).any()  # slots that were handed on within one step
    ours = our_gradient(env, policy, played, mean_ratio, legacy=True, normalize_rewards=normalize)
    assert "gate_head.weight" in ours
    assert_same(ours, Published(env, policy, True, mean_ratio, normalize).gradient(played))


@pytest.mark.parametrize("world", ["junction", "mixed", "competitive"])
def test_learned_gates_have_the_published_gradient(world):
    env, policy = team(world, legacy=True)
    played = rollout(env, policy, worlds=6 if world == "junction" else 40)
    if world == "mixed":
        assert (played.lengths < env.spec.horizon).any()  # some found the prey
    ours = our_gradient(env, policy, played, legacy=True)
    assert_same(ours, Published(env, policy, False, 0.0).gradient(played))


def test_commnet_has_the_published_gradient():
    env, policy = team("junction", "commnet", legacy=True)
    assert policy.gate_head is None
    played = rollout(env, policy)
    ours = our_gradient(env, policy, played, mean_ratio=1.0, legacy=True)
    assert_same(ours, Published(env, policy, True, 1.0, hard_attention=False).gradient(played))


POLICY_SWITCHES = ("deaf_when_silent", "mean_of_living", "empty_slots_run")


@pytest.mark.parametrize("left_out", [*POLICY_SWITCHES, "slot_returns", "post_step_mask"])
def test_every_switch_is_needed(left_out):
    """Without any one of the switches the gradient is another one: none is there for show."""
    policy_settings = {name: name != left_out for name in POLICY_SWITCHES}
    training = {name: name != left_out for name in ("slot_returns", "post_step_mask")}
    env, policy = team("junction", **policy_settings)
    played = rollout(env, policy, worlds=6)
    theirs = Published(env, policy, False, 0.0).gradient(played)
    ours = our_gradient(env, policy, played, **training)
    assert any((ours[name] - gradient).norm() > 1e-3 * gradient.norm() for name, gradient in theirs.items())


def test_a_forced_gate_is_trained_on_demand_only():
    for trained in (False, True):
        env, policy = team("junction", force_gate_open=True, train_forced_gate=trained)
        played = rollout(env, policy, worlds=4)
        assert (policy.gate_head is not None) == (played.gate_choices is not None) == trained
        assert torch.equal(played.talk.spoke, played.alive[:, :-1])
        assert not TalkMeter(policy).link.gated  # nothing to tell: everybody speaks


def test_legacy_says_what_it_turns_on():
    published = IC3NetSettings(legacy=True)
    assert all(getattr(published, name) for name in (*POLICY_SWITCHES, "train_forced_gate"))
    assert not any(getattr(IC3NetSettings(), name) for name in POLICY_SWITCHES)
    assert not CommNetSettings(legacy=True).train_forced_gate  # CommNet has no gate
    assert IC3NetSettings(**published.model_dump()) == published
    training = IC3NetTraining(legacy=True)
    assert training.slot_returns
    assert training.post_step_mask
    assert not training.normalize_rewards  # a flag that the published runs leave off
    assert (training.lr, training.optimizer, training.rmsprop_alpha, training.rmsprop_eps) == (
        1e-3,
        "rmsprop",
        0.97,
        1e-6,
    )


@pytest.mark.parametrize("switch", ["slot_returns", "post_step_mask", "normalize_rewards"])
@pytest.mark.parametrize(
    ("policy", "changes", "ratio"),
    [("ic3net", {}, 0.0), ("commnet", {}, 1.0), ("commnet", {"mean_ratio": 0.25}, 0.25)],
)
def test_the_objective_is_that_of_the_settings(policy, changes, ratio, switch):
    given = {"gamma": 0.9, "vf_loss_coeff": 0.02, "entropy_coeff": 0.03, "reward_scale": 0.5, switch: True} | changes
    wanted = objective(IC3NetTraining(**given), ratio)
    wanted = replace(wanted, entropy_weight=Schedule.of(0.03), reward_scale=0.5)
    settings = experiment({"policy": {"name": policy}, "algorithm": {"name": "ic3net"} | given})
    assert algorithm_config(settings).objective() == wanted


def test_a_mean_of_the_living_needs_a_shared_network():
    names = TeamNames("traffic_junction", {}, "ic3net", {"legacy": True, "parameters": "per_agent"}, "vq", {})
    with pytest.raises(ConfigError, match="mean_of_living wants parameters: shared"):
        names.check()


def test_a_mean_of_the_living_needs_the_channel_at_the_sender():
    settings = {"hidden_size": 6, "mean_of_living": True}
    names = TeamNames("traffic_junction", {}, "ic3net", settings, "vq", {"placement": "readout"})
    with pytest.raises(ConfigError, match=r"policy\.mean_of_living"):
        names.check()


def hidden_memory(policy, worlds=1):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(value.shape, generator=generator) for name, value in policy.begin(worlds).items()}


def test_the_switches_of_hearing_by_hand():
    env, policy = team("junction", deaf_when_silent=True, mean_of_living=True)
    alive = torch.tensor([[True, True, True, True, False]])
    gates = torch.tensor([[True, True, False, True, True]])
    memory = hidden_memory(policy)
    hidden = memory["hidden"][0]
    seen = torch.zeros(1, 5, env.spec.observation_size)
    heard = {0: (hidden[1] + hidden[3]) / 3, 1: (hidden[0] + hidden[3]) / 3, 2: 0 * hidden[0]}  # 2 is silent, so deaf
    with torch.no_grad():
        _, after = policy.step(Moment(seen, alive, torch.zeros_like(alive), gates), memory)
        for agent, vector in heard.items():
            entered = policy.encoder(seen[0, agent]) + policy.from_message(vector)
            expected, _ = policy.core.cell(entered[None], (hidden[agent][None], memory["cell"][0, agent][None]))
            assert torch.allclose(after["hidden"][0, agent], expected[0], atol=1e-6)
        assert torch.equal(after["hidden"][0, 4], hidden[4])  # an empty slot waits


def test_an_empty_slot_runs_on_where_asked_and_hears_nothing():
    env, policy = team("junction", empty_slots_run=True)
    alive = torch.tensor([[True, True, False, False, False]])
    seen = torch.zeros(1, 5, env.spec.observation_size)
    memory = hidden_memory(policy)
    hidden, cell = memory["hidden"][0, 3], memory["cell"][0, 3]
    with torch.no_grad():
        _, after = policy.step(Moment(seen, alive, torch.zeros_like(alive), alive), memory)
        entered = policy.encoder(seen[0, 3]) + policy.from_message(torch.zeros(6))
        expected, _ = policy.core.cell(entered[None], (hidden[None], cell[None]))
    assert torch.allclose(after["hidden"][0, 3], expected[0], atol=1e-6)


def test_silence_does_not_deafen_whom_the_world_lets_only_listen():
    env, policy = team("junction", deaf_when_silent=True)
    policy._speakers = torch.tensor([True, True, True, True, False])
    spoke = torch.tensor([[True, True, False, False, False]])
    audible = policy.audible(spoke)[0]
    assert audible[:, :2].any(-1).tolist() == [True, True, False, False, True]
    assert audible[4].tolist() == [True, True, False, False, False]


def test_gates_are_counted_apart_from_gates_that_matter():
    env, policy = team("junction")
    played = rollout(env, policy, worlds=1)
    alive = torch.zeros(1, 3, 5, dtype=torch.bool)
    alive[0, 0, :3] = alive[0, 1, :1] = alive[0, 2, :2] = True
    gates = torch.zeros(1, 3, 5, dtype=torch.bool)
    gates[0, 0, :2] = gates[0, 1, 0] = gates[0, 2, 1] = True  # step 1: open, and alone
    parts = {name: getattr(played, name)[:, :3] for name in ("actions", "rewards", "log_probs")}
    talk = replace(played.talk, symbols=played.talk.symbols[:, :3], spoke=gates & alive)
    short = replace(played, acts=alive, gates=gates, talk=talk, **parts)
    meter = TalkMeter(policy)
    counts = meter.count(short) + meter.count(short)
    figures = meter.report(counts)
    assert (counts.open_gates, counts.effective_gates) == (2 * 4, 2 * 3)
    assert figures["gate_rate"] == pytest.approx(4 / 6)
    assert figures["effective_gate_rate"] == pytest.approx(3 / 6)
    assert figures["gate_rate"] == pytest.approx(figures["messages_per_agent_step"])
    deaf = TalkMeter(team("junction", deaf_when_silent=True)[1]).count(short)
    assert (deaf.open_gates, deaf.effective_gates) == (4, 2)  # in the last step the other one was silent, so deaf
    silent_env, silent = team("junction", channel="silent")
    mute = TalkMeter(silent).report(TalkMeter(silent).count(rollout(silent_env, silent)))
    assert mute["gate_rate"] > 0.2
    assert mute["effective_gate_rate"] == 0
    open_env, always = team("junction", force_gate_open=True)
    assert "gate_rate" not in TalkMeter(always).report(TalkMeter(always).count(rollout(open_env, always)))


@pytest.mark.parametrize("core", ["rnn", "feedforward"])
def test_independent_controllers_are_the_published_ones(core):
    """IRIC: tanh(W h + encoder(x)); IC: x = tanh(encoder(x)), tanh(W x + x). Nobody hears: C's bias alone enters."""
    env, policy = team("junction", core=core, force_gate_open=True, channel="silent")
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 3, 5, env.spec.observation_size, generator=generator)
    alive = torch.ones(3, 5, dtype=torch.bool)
    with torch.no_grad():
        _, memory = policy.step(Moment(first, alive, ~alive), policy.begin(3))
        decision, memory = policy.step(Moment(second, alive, ~alive), memory)
        bias = policy.from_message.bias
        if core == "rnn":
            hidden = torch.tanh(policy.encoder(first) + policy.core.linear.bias + bias)
            state = torch.tanh(policy.core.linear(hidden) + policy.encoder(second) + bias)
        else:
            x = torch.tanh(policy.encoder(second))
            state = torch.tanh(policy.core.linear(x) + x + bias)
            assert memory == {}
        assert torch.allclose(decision.logits, policy.action_head(state), atol=1e-6)
        assert torch.allclose(decision.values, policy.value_head(state).squeeze(-1), atol=1e-6)


def test_a_plain_recurrent_layer_waits_in_an_empty_slot():
    env, policy = team("junction", core="rnn")
    alive = torch.tensor([[True, False, True, True, True]])
    memory = hidden_memory(policy)
    with torch.no_grad():
        _, after = policy.step(Moment(torch.zeros(1, 5, env.spec.observation_size), alive, ~alive, alive), memory)
    kept = (after["hidden"] == memory["hidden"]).all(-1)
    assert torch.equal(kept, ~alive)


@pytest.mark.parametrize("name", ["ic", "iric", "commnet", "ic3net_predator_prey", "ic3net_published", "tarmac"])
def test_configs_make_teams_that_play(name):
    data, _ = read(Path(__file__).parent.parent / f"configs/{name}.yaml")
    names = team_names(experiment(data))
    names.check()
    env = names.make_env()
    policy = names.make_policy(env, 0)
    played = rollout(env, policy, worlds=2)
    assert bool(played.talk.spoke.any()) == (name not in ("ic", "iric"))
    assert (played.gates is not None) == (name == "ic3net_predator_prey")
    assert (played.gate_choices is not None) == name.startswith("ic3net_p")
