"""A channel at the receivers' read-out: a bottleneck that no link carries, and that nothing passes by."""

import json
from dataclasses import replace

import pytest
import third_party
import tiny_world  # noqa: F401 (registers the relay)
import torch

from marlcomm.analysis.trace import prove, record
from marlcomm.channels import Peers, check_channel
from marlcomm.channels.readout import ReadoutChannel
from marlcomm.config import experiment
from marlcomm.glossary import glossary
from marlcomm.objectives.base import channel_loss, sent_messages
from marlcomm.objectives.reinforce import Reinforce
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.coding import frozen_code
from marlcomm.policies.evaluation import evaluate
from marlcomm.policies.metering import TalkMeter
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.policies.settings import PolicySettings
from marlcomm.policies.team import TeamNames, make_bottleneck_meter, make_channel
from marlcomm.registry import CHANNELS, ConfigError

POLICIES = {
    "ic3net": {"hidden_size": 16, "message_size": 8},
    "commnet": {"hidden_size": 16, "message_size": 8},
    "transformer": {"hidden_size": 16, "width": 8, "heads": 2, "message_size": 4},
    "transformer-deep": {"hidden_size": 16, "width": 8, "heads": 2, "message_size": 4, "layers": 3},
    "transformer-feedforward": {"hidden_size": 16, "width": 8, "message_size": 4, "recurrent": False},
    "transformer-slots": {"hidden_size": 16, "width": 8, "heads": 2, "message_size": 4, "layers": 2, "slot_bias": True},
}
BOTTLENECKS = {
    "vq": {"codebook_size": 8, "segments": 2},
    "dvq": {"pool": [[1, 4], [2, 8]]},
    "ddcl": {"delta": 0.1},
    "gumbel": {"vocabulary": 8, "tokens": 2},
}
NOT_THERE = ("continuous", "silent", "post_training")


def names(policy="transformer", channel="vq", env="traffic_junction", placement="readout", **settings):
    config = {"add_rate": 0.5} if env == "traffic_junction" else {}
    settings = {"placement": placement} | (settings or BOTTLENECKS.get(channel, {}))
    return TeamNames(env, config, policy.partition("-")[0], POLICIES[policy], channel, settings)


def team(*args, **kwargs):
    parts = names(*args, **kwargs)
    env = parts.make_env()
    return env, parts.make_policy(env, seed=0)


def play(env, policy, worlds=12):
    return Player(env, policy, seed=0).play(torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64))


def moment_of(played, policy):
    steps, agents = played.acts.shape[1:]
    noise = channel_noise(policy.channel, 0, "train", played.worlds, played.episodes, steps, agents)
    return Moment(played.observations, played.alive[:, :-1], played.spawned[:, :-1], played.gates, noise)


def heard_by_hand(played):
    """Who of the living hears a living one that spoke, [B, T, N], counted one by one."""
    spoke, alive = played.talk.spoke, played.alive[:, :-1]
    others = range(spoke.shape[-1])
    columns = [
        alive[..., i] & torch.stack([spoke[..., j] for j in others if j != i]).any(0) for i in range(len(others))
    ]
    return torch.stack(columns, -1)


# --- nothing passes by -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", BOTTLENECKS)
@pytest.mark.parametrize("policy_name", POLICIES)
def test_of_the_others_an_agent_knows_what_it_read_and_nothing_else(policy_name, channel):
    """Change what the others see at every step, let agent i read the symbols that it read: it does not notice."""
    env, policy = team(policy_name, channel)
    played = play(env, policy)
    whole = moment_of(played, policy)
    i, bottleneck, now = 2, policy.bottleneck, []
    generator = torch.Generator().manual_seed(1)
    seen = torch.randn(whole.observations.shape, generator=generator)
    seen[:, :, i] = whole.observations[:, :, i]
    encode = bottleneck.encode

    def encoded(messages, noise=None):
        symbols = encode(messages, noise)
        now.append(symbols.clone())
        read = played.talk.readout.symbols[:, :, i]
        symbols[:, i] = read[:, len(now) - 1] if policy.remembers else read.transpose(0, 1).flatten(0, 1)  # all steps
        return symbols

    with torch.no_grad():
        expected = policy(whole)
        bottleneck.encode = encoded
        decision = policy(Moment(**(vars(whole) | {"observations": seen})))
    alive = whole.alive[:, :, i]
    for name in ("logits", "values", "gate_logits"):
        before, after = getattr(expected, name), getattr(decision, name)
        if before is not None:
            assert torch.equal(before[:, :, i][alive], after[:, :, i][alive]), name
    said = torch.stack(now, 1) if policy.remembers else now[0].unflatten(0, alive.t().shape).transpose(0, 1)
    own = said[:, :, i] != played.talk.readout.symbols[:, :, i]
    assert own[played.talk.readout.spoke[:, :, i]].any()  # else the changed words would have told it the same


@pytest.mark.parametrize("policy_name", POLICIES)
def test_the_receivers_loss_reaches_the_senders(policy_name):
    for channel in ("vq", "ddcl", "gumbel"):
        env, policy = team(policy_name, channel)
        whole = moment_of(play(env, policy), policy)
        gates = None if whole.gates is None else torch.ones_like(whole.gates)
        seen = whole.observations.clone().requires_grad_()
        decision = policy(Moment(**(vars(whole) | {"observations": seen, "gates": gates})))
        (gradient,) = torch.autograd.grad(decision.logits[:, :, 0].square().sum(), seen)
        assert torch.isfinite(gradient).all()
        assert gradient[:, :, 1:].abs().sum() > 0, channel


@pytest.mark.parametrize("channel", [*BOTTLENECKS, "daps"])
@pytest.mark.parametrize("policy_name", POLICIES)
def test_replay_is_the_rollout(policy_name, channel):
    """The same noise for each receiver and step, and the same symbols."""
    env, policy = team(policy_name, channel, **({"vocabulary": 8} if channel == "daps" else {}))
    played = play(env, policy)
    with torch.no_grad():
        decision = policy(moment_of(played, policy))
    assert torch.equal(decision.talk.spoke, played.talk.spoke)
    assert torch.equal(decision.talk.readout.spoke, played.talk.readout.spoke)
    read = played.talk.readout.spoke
    assert torch.equal(decision.talk.readout.symbols[read], played.talk.readout.symbols[read])
    assert torch.allclose(decision.values[played.acts], played.values[:, :-1][played.acts], atol=1e-5)


def test_ic3net_reads_the_quantised_mean_by_hand():
    env, policy = team("ic3net", "vq")
    generator = torch.Generator().manual_seed(0)
    hidden, cell = (torch.randn(1, 5, 16, generator=generator) for _ in range(2))
    seen = torch.randn(1, 5, 17, generator=generator)
    alive = torch.tensor([[True, True, True, False, True]])
    gates = torch.tensor([[True, True, False, True, False]])
    with torch.no_grad():
        said = policy.to_message(hidden)[0]
        decision, memory = policy.step(
            Moment(seen, alive, torch.zeros_like(alive), gates), {"hidden": hidden.clone(), "cell": cell.clone()}
        )
        for agent, speakers in {0: [1], 1: [0], 2: [0, 1], 4: [0, 1]}.items():
            mean = said[speakers].mean(0)
            symbols = policy.bottleneck.encode(mean[None])
            assert torch.equal(decision.talk.readout.symbols[0, agent], symbols[0])
            entered = policy.encoder(seen[0, agent]) + policy.from_message(policy.bottleneck.decode(symbols))[0]
            expected, _ = policy.core.cell(entered[None], (hidden[0, agent][None], cell[0, agent][None]))
            assert torch.allclose(memory["hidden"][0, agent], expected[0], atol=1e-6)
    assert decision.talk.readout.spoke.tolist() == [[True, True, True, False, True]]


def test_the_transformer_reads_what_its_heads_attend_to_by_hand():
    env, policy = team("transformer", "vq")
    played = play(env, policy, worlds=6)
    whole = moment_of(played, policy)
    observations, alive = whole.observations[:, 0], torch.ones(6, 5, dtype=torch.bool)
    alive[:, 3] = False
    with torch.no_grad():
        features, memory = policy.see(observations), policy.begin(6)
        received = policy.say(features, memory)
        audible = alive.unsqueeze(1) & ~torch.eye(5, dtype=torch.bool)
        gathered = policy.gather(features, memory, received, audible)
        layer = policy.layers[0]
        own = policy.own_token(torch.cat([memory["hidden"], features], -1))
        heard = policy.heard_token(received)
        query = layer.query(layer.norm(own)).unflatten(-1, (2, 4))
        key, value = (half.unflatten(-1, (2, 4)) for half in layer.key_value(layer.norm(heard)).chunk(2, -1))
        for world, i in ((0, 0), (4, 2)):
            others = [j for j in range(5) if j not in (i, 3)]
            mixed = []
            for head in range(2):
                scores = torch.stack([query[world, i, head] @ key[world, j, head] / 2 for j in others])
                weights = torch.softmax(scores, 0)
                mixed.append(sum(w * value[world, j, head] for w, j in zip(weights, others, strict=True)))
            assert torch.allclose(gathered[world, i], torch.cat(mixed), atol=1e-5)
        alone = policy.gather(features, memory, received, torch.zeros_like(audible))
    assert not alone.any()


def test_who_heard_nobody_acts_as_if_there_was_no_bottleneck():
    """With the channel at the sender or at the read-out, whoever is alone computes the same with the same weights."""
    for policy_name in POLICIES:
        env, policy = team(policy_name, "vq")
        weights = {name: value.numpy() for name, value in policy.state_dict().items()}
        plain = replace(names(policy_name), channel="continuous", channel_config={}).make_policy(env, 0, weights)
        alone = torch.zeros(7, 5, dtype=torch.bool)
        alone[:, 1] = True
        seen = torch.randn(7, 5, 17, generator=torch.Generator().manual_seed(0))
        now = Moment(seen, alone, ~alone, alone if policy.gated else None)
        with torch.no_grad():
            bottlenecked, expected = (one.step(now, one.begin(7))[0] for one in (policy, plain))
        assert torch.allclose(bottlenecked.logits[:, 1], expected.logits[:, 1], atol=1e-6)
        assert not bottlenecked.talk.readout.spoke.any()


# --- bits ------------------------------------------------------------------------------------------------------------


def test_links_carry_floats_and_the_bottleneck_its_own_bits():
    """Two agents that always talk, four steps: 4 floats on the wire, and 2 indices of 8 codewords at the read-out."""
    env, policy = team("transformer", "vq", env="relay")
    played = play(env, policy, worlds=5)
    assert played.talk.symbols.shape == (5, 4, 2, 4)
    assert played.talk.readout.symbols.shape == (5, 4, 2, 2)
    figures = evaluate(env, policy, 0, 5)
    assert figures["nominal_bits_per_message"] == figures["prefix_bits_per_message"] == 4 * 32
    assert figures["prefix_bits_per_agent_step"] == 128
    assert figures["wire_bytes_per_message"] == 4 + 4 * 4
    assert figures["bottleneck_messages_per_agent_step"] == 1
    assert figures["bottleneck_nominal_bits_per_message"] == 6
    assert figures["bottleneck_bits_per_message"] == figures["bottleneck_bits_per_agent_step"] == 6
    assert figures["bottleneck_bits_per_env_step"] == 12
    assert figures["bottleneck_bits_per_episode"] == 48
    assert not any("received" in name for name in figures if name.startswith("bottleneck"))
    _, sender = team("transformer", "vq", env="relay", placement="sender", codebook_size=8, segments=2)
    at_the_sender = evaluate(env, sender, 0, 5)
    assert at_the_sender["prefix_bits_per_message"] == 6
    assert not any(name.startswith("bottleneck") for name in at_the_sender)


def test_a_pool_is_metered_by_what_was_chosen():
    env, policy = team("transformer", "dvq", env="relay", pool=[[1, 4], [2, 8]], selector="random")
    played = play(env, policy)
    figures = TalkMeter(policy).report(TalkMeter(policy).count(played))
    chosen = played.talk.readout.symbols[..., 0].flatten().tolist()
    by_hand = sum((1 + 2, 1 + 6)[member] for member in chosen) / len(chosen)
    assert 3 < by_hand < 7
    assert figures["bottleneck_bits_per_message"] == pytest.approx(by_hand)


@pytest.mark.parametrize("policy_name", ["ic3net", "commnet"])
def test_receivers_that_heard_somebody_are_counted_by_hand(policy_name):
    """Behind gates, whether anybody was heard is worth a bit for every living agent."""
    env, policy = team(policy_name, "vq")
    played = play(env, policy)
    heard, acts = heard_by_hand(played), played.acts
    assert torch.equal(played.talk.readout.spoke, heard)
    assert 0 < int((heard & acts).sum()) < int(acts.sum())
    counts = TalkMeter(policy).count(played)
    assert counts.read.agent_steps == counts.sent.agent_steps == int(acts.sum())
    assert counts.read.messages == int((heard & acts).sum())
    assert counts.read.prefix_bits == 6 * counts.read.messages + policy.gated * counts.read.agent_steps
    twice = counts + counts
    assert twice.read.prefix_bits == 2 * counts.read.prefix_bits


def test_who_cannot_be_spoken_to_has_no_right_to_hear():
    env, policy = team("transformer", "vq", env="communicating_goal")
    assert policy.spec.speakers == (True, False)
    played = play(env, policy)
    assert not played.talk.readout.spoke[..., 0].any()
    counts = TalkMeter(policy).count(played)
    assert counts.read.agent_steps == counts.read.messages == int(played.acts[..., 1].sum())
    policy.spec = replace(policy.spec, speakers=(True, True))
    assert make_bottleneck_meter(policy).speakers.tolist() == [True, True]


def test_the_packets_of_an_evaluation_are_all_that_was_heard():
    env, policy = team("transformer", "ddcl")
    code = frozen_code(env, policy, 0, 10)
    prove(env, policy, record(env, policy, 0, 20, code))
    figures = evaluate(env, policy, 0, 20, code=code)
    assert figures["coded_bits_per_message"] == 32 * 4


# --- learning --------------------------------------------------------------------------------------------------------


def test_losses_are_means_over_receivers_that_heard_somebody():
    env, policy = team("ic3net", "vq")
    played = play(env, policy)
    batch = Reinforce(1.0, 0.0, 0.01, Schedule.of(0.0), reward_scale=1.0).columns(played)
    read = heard_by_hand(played) & played.acts
    assert torch.equal(batch["spoke"] & batch["acts"], read)
    assert torch.equal(batch["symbols"], played.talk.readout.symbols)
    decision = policy(moment_of(played, policy))
    talk = decision.talk.quantised
    loss = channel_loss(policy.quantiser, talk, batch["acts"], read.sum().float())
    assert loss.stats.keys() == {"channel/codebook", "channel/commitment"}
    commitment = talk.losses["commitment"][read].mean()
    assert torch.allclose(loss.stats["channel/commitment"], commitment)
    assert torch.allclose(loss.total, talk.losses["codebook"][read].mean() + 0.25 * commitment)
    assert decision.talk.losses == {}


def test_only_what_was_gathered_is_absorbed():
    env, policy = team("transformer", "vq", codebook_size=8, update="ema", normalization="running")
    played = play(env, policy)
    decision = policy(moment_of(played, policy))
    gathered = sent_messages(decision.talk.quantised, played.acts)
    assert gathered.shape == (int((heard_by_hand(played) & played.acts).sum()), 8)  # of the width, not message_size
    assert decision.talk.messages is None
    before = policy.bottleneck.codebook.clone()
    policy.quantiser.absorb(gathered, 100, Peers())
    assert not torch.equal(policy.bottleneck.codebook, before)
    _, still = team("transformer", "vq")
    assert not still.quantiser.absorbs
    assert still(moment_of(played, still)).talk.quantised.messages is None


def test_schedules_and_evaluations_reach_the_bottleneck():
    env, policy = team("transformer", "ddcl", delta=0.1, rate_warmup=1000, eval_dither="none", rate_weight=0.5)
    policy.quantiser.after_update(500)
    assert policy.quantiser.loss_weights() == {"rate": 0.25}
    whole = moment_of(play(env, policy), policy)
    with torch.no_grad(), policy.channel.evaluation():
        assert policy.bottleneck.evaluating
        plain = policy(whole).talk.readout
    assert not policy.bottleneck.evaluating
    assert not torch.equal(plain.symbols[plain.spoke], policy(whole).talk.readout.symbols[plain.spoke])


@pytest.mark.parametrize("policy_name", POLICIES)
def test_a_codebook_starts_from_what_the_untrained_team_gathers(policy_name):
    parts = names(policy_name, codebook_size=32)
    env = parts.make_env()
    policy, again = parts.make_policy(env, 0), parts.make_policy(env, 0)
    assert torch.equal(policy.bottleneck.codebook, again.bottleneck.codebook)
    played = play(env, policy, worlds=40)
    used = played.talk.readout.symbols[played.talk.readout.spoke & played.acts].unique()
    assert len(used) >= 12  # of random codewords, a few at most


def test_a_trained_team_goes_on_with_another_placement():
    sent = names(placement="sender", codebook_size=8)
    env = sent.make_env()
    trained = {name: value.numpy() + 0.01 for name, value in sent.make_policy(env, 0).state_dict().items()}
    read = names(codebook_size=8)
    moved = read.make_policy(env, 0, trained)
    for name, value in moved.state_dict().items():
        if not name.startswith("channel."):
            assert torch.equal(value, torch.as_tensor(trained[name]))
    own = {name: value.numpy() + 0.01 for name, value in moved.state_dict().items()}
    assert "channel.bottleneck.codebook" in own
    again = read.make_policy(env, 0, own)
    assert torch.equal(again.bottleneck.codebook, torch.as_tensor(own["channel.bottleneck.codebook"]))


# --- what fits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CHANNELS.rows if name not in NOT_THERE])
def test_every_quantiser_keeps_the_contract_at_the_read_out(name):
    findings = check_channel(lambda: make_channel(name, {"placement": "readout"}, 4, 8))
    assert [finding for finding in findings if finding.problem] == []


def test_the_contract_is_that_of_the_bottleneck_too():
    def build():
        channel = make_channel("sign", {"placement": "readout"}, 8)
        channel.bottleneck.encode = lambda messages, noise=None: messages.sign()
        return channel

    (finding,) = (finding for finding in check_channel(build) if finding.problem)
    assert "encode returns torch.float32, wanted torch.int32" in finding.problem


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_quantises_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=r"channel\.placement: got 'readout', wanted 'sender': ") as error:
        experiment({"channel": {"name": name, "placement": "readout"}})
    reason = {"continuous": "no bottleneck", "silent": "nothing is heard", "post_training": "channel.name=uniform"}
    assert reason[name] in str(error.value)
    assert experiment({"channel": {"name": name, "placement": "sender"}})


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="placement: got 'receiver', wanted 'sender' or 'readout'"):
        experiment({"channel": {"name": "vq", "placement": "receiver"}})
    with pytest.raises(ConfigError, match=r"dither_conditional.*no code is fitted"):
        experiment({"channel": {"dither_levels": 8, "code": "dither_conditional", "placement": "readout"}})
    vq = {"name": "vq", "segments": 3, "placement": "readout"}
    with pytest.raises(ConfigError, match=r"segments: got 3.*the read-out's width 64 \(nearest: 2\)"):
        experiment({"channel": vq, "policy": {"name": "transformer", "message_size": 3}})
    assert experiment({"channel": vq, "policy": {"name": "transformer", "message_size": 8, "width": 48}})
    with pytest.raises(ConfigError, match=r"segments: got 3.*policy\.message_size 8"):
        experiment({"channel": vq | {"placement": "sender"}, "policy": {"name": "transformer", "message_size": 8}})


def test_who_has_no_read_out_or_carries_nothing_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="this policy has no read-out"):
        PolicySettings().channel_width("readout")
    monkeypatch.setattr(third_party.SignChannel, "carries", False)
    with pytest.raises(ConfigError, match="sign carries nothing"):
        make_channel("sign", {"placement": "readout"}, 8)


def test_a_channel_of_ones_own_can_be_read_out_too():
    env, policy = team("transformer", "sign", env="relay")
    assert isinstance(policy.channel, ReadoutChannel)
    figures = evaluate(env, policy, 0, 4)
    assert (figures["prefix_bits_per_message"], figures["bottleneck_bits_per_message"]) == (128, 8)


# --- end to end ------------------------------------------------------------------------------------------------------


def test_a_team_is_trained_and_evaluated_by_the_command_line(trains_here, tmp_path, pytestconfig):
    """Two updates of one round each; a run's figures have the link's bits and the bottleneck's."""
    done = trains_here(
        "train", str(pytestconfig.rootpath / "configs" / "communicating_goal.yaml"),
        "channel.name=dvq", "channel.placement=readout", "channel.pool=[[1,4],[2,8]]", "policy.hidden_size=16",
        "policy.width=8", "run.worlds=16", "run.env_steps=400", "run.evaluate_every=1", "run.evaluation_worlds=20",
        "evaluation.episodes=20", "evaluation.code_episodes=10", "resources.threads=1",
        cwd=tmp_path,
    )  # fmt: skip
    assert "dvq at the read-out on communicating_goal" in done.stdout
    (folder,) = (tmp_path / "runs" / "communicating_goal").iterdir()
    rounds = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rounds) >= 2
    for figures in rounds:
        assert figures["bandwidth/prefix_bits_per_message"] == figures["validation/prefix_bits_per_message"] == 128
        assert 3 <= figures["bandwidth/bottleneck_bits_per_message"] <= 7
        assert 3 <= figures["validation/bottleneck_bits_per_agent_step"] <= 7
        assert figures["channel/capacity"] > 0
        assert figures["replay/flipped_symbols"] == 0
        assert figures["replay/ratio_error"] < 1e-3
        assert figures.keys() - {"env_steps", "round"} <= glossary("communicating_goal").keys()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["channel_settings"]["placement"] == "readout"
    assert summary["evaluation/coded_bits_per_message"] == 128
    assert 3 <= summary["evaluation/bottleneck_bits_per_agent_step"] <= 7
