"""How many symbols of a message are worth hearing: by hand, on codes that are known, and from the command line."""

import json

import pytest
import torch
from test_lewis_game import TINY

from marlcomm.analysis.effective_symbols import _first_symbols, effective_symbols, measure
from marlcomm.envs.lewis_game.world import RECEIVER, SENDER
from marlcomm.policies.records import Talk
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError

GAME = TINY | {"training_rounds": 50, "min_symbols": 1}


def team(channel="gumbel", game=GAME, policy=None, **settings):
    policy = {"core": "feedforward", "hidden_size": 16, "message_size": 8} if policy is None else policy
    names = TeamNames("lewis_game", game, "commnet", policy, channel, settings)
    env = names.make_env()
    return env, names.make_policy(env, seed=0).eval()


@pytest.mark.parametrize(
    ("success", "wanted"),
    [
        ([0.1, 0.5, 0.9, 1.0], 3),
        ([0.1, 0.5, 0.96, 1.0], 2),
        ([0.0, 0.5, 0.5], 1),
        ([0.3, 0.2, 0.1], 0),
        ([0.4, 0.4], 0),
    ],
)
def test_the_fewest_symbols_that_are_enough(success, wanted):
    assert effective_symbols(success) == wanted


def said():
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(1, 50, (200, 1, 2, 3), generator=generator, dtype=torch.int32)
    spoke = torch.rand(200, 1, 2, generator=generator) < 0.8
    return Talk(symbols, spoke)


def test_resampled_symbols_keep_their_place_their_sender_and_how_common_they_are():
    talk = said()
    for kept in range(4):
        heard = _first_symbols(talk, kept, "resampled", seed=1)
        assert torch.equal(heard.symbols[..., :kept], talk.symbols[..., :kept])
        assert torch.equal(heard.spoke, talk.spoke)
        for sender in (0, 1):
            rows = talk.spoke[:, 0, sender]
            now, then = heard.symbols[rows, 0, sender], talk.symbols[rows, 0, sender]
            for column in range(kept, 3):
                assert torch.equal(now[:, column].sort().values, then[:, column].sort().values)
                assert (now[:, column] == then[:, column]).float().mean() < 0.2
            if kept < 2:  # each symbol comes from another episode, not all of them from the same one
                pairs = {tuple(row) for row in then[:, 1:].tolist()}
                assert sum(tuple(row) in pairs for row in now[:, 1:].tolist()) < 20


def test_dropped_symbols_end_the_message():
    talk = said()
    heard = _first_symbols(talk, 1, "dropped", seed=1)
    assert torch.equal(heard.symbols[..., :1], talk.symbols[..., :1])
    assert not heard.symbols[..., 1:].any()


def speak_by_hand(env, policy, looked_at):
    """Symbol c names attribute c of the target; the receiver takes what fits most of the first symbols."""
    step = policy.step

    def encode(messages, noise=None):
        target = env.candidates[torch.arange(len(messages)), env.target].to(torch.int32)
        return target.unsqueeze(1).expand(-1, 2, -1).contiguous()

    def choose(moment, memory, overheard=None):
        decision, memory = step(moment, memory, overheard)
        heard = decision.talk.symbols[:, SENDER, None, :looked_at]
        decision.logits[:, RECEIVER] = (env.candidates[:, :, :looked_at] == heard).float().sum(-1)
        return decision, memory

    policy.channel.encode, policy.step = encode, choose


@pytest.mark.parametrize("looked_at", [1, 2, 4])
def test_a_known_code_is_worth_what_is_looked_at(looked_at):
    env, policy = team(tokens=4, vocabulary=3)
    speak_by_hand(env, policy, looked_at)
    curve = measure(env, policy, seed=0, episodes=400)
    assert curve.others == "resampled"
    assert curve.success[0] == pytest.approx(1 / 6, abs=0.08)
    assert curve.success[: looked_at + 1] == sorted(curve.success[: looked_at + 1])
    assert curve.success[looked_at:] == [curve.success[-1]] * (5 - looked_at)
    # Of five distractors, each shares a value with the target in one of three cases; rounds of min 1 are easier.
    alike = 1 / 3**looked_at
    assert curve.success[-1] > (1 - (1 - alike) ** 6) / (6 * alike) - 0.02
    assert curve.effective in (looked_at - 1, looked_at)


def test_messages_with_an_end_are_cut_short():
    env, policy = team(tokens=3, vocabulary=4, end_token=True)
    curve = measure(env, policy, seed=0, episodes=40)
    assert (curve.others, len(curve.success)) == ("dropped", 4)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"game": GAME | {"steps": 2}, "policy": {"hidden_size": 8}}, "got 2 messages of a sender in an episode"),
        ({"channel": "silent"}, "wanted a channel at the sender, that carries something"),
        ({"channel": "dvq"}, "the first ones say what the others are"),
    ],
)
def test_what_has_no_answer_is_refused(case, words):
    env, policy = team(**case)
    with pytest.raises(ConfigError, match=words):
        measure(env, policy, seed=0, episodes=10)


def test_one_command(here, cluster, trains_here, tmp_path, pytestconfig):
    file = pytestconfig.rootpath / "configs/lewis_game.yaml"
    small = ["env.attributes=4", "env.values=3", "env.distractors=5", "env.training_rounds=50", "run.worlds=32"]
    small += ["run.env_steps=32", "evaluation.episodes=20", "evaluation.code_episodes=20", "name=lewis"]
    trains_here("train", file, *small, "channel.vocabulary=5", "resources.threads=1", cwd=tmp_path)
    here("bench", "effective-symbols", "runs/lewis", "--episodes", 50, "--out", "curve.json", cwd=tmp_path)
    found = json.loads((tmp_path / "curve.json").read_text())
    assert found["command"].startswith("marlcomm bench effective-symbols runs/lewis")
    assert found["training"].startswith("marlcomm train")
    assert (found["others"], found["episodes"], len(found["success"])) == ("resampled", 50, 3)
