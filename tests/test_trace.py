"""Packets on disk, and that nothing else was heard."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marlcomm.analysis.trace import Trace, prove, prove_run, record
from marlcomm.config import experiment
from marlcomm.policies.coding import frozen_code
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError
from marlcomm.runs import Run
from marlcomm.wire import WireError

SMALL = {"hidden_size": 16, "message_size": 4}


def team(channel="ddcl", channel_config=None, policy="transformer"):
    config = SMALL | ({"width": 8} if policy == "transformer" else {})
    names = TeamNames("traffic_junction", {"add_rate": 0.5}, policy, config, channel, channel_config or {})
    world = names.make_env(final=True)
    return world, names.make_policy(world, seed=0)


@pytest.mark.parametrize(
    ("channel", "channel_config", "policy"),
    [
        ("ddcl", {}, "transformer"),
        ("ddcl", {"dither_levels": 64, "code": "dither_conditional", "delta": 0.2}, "transformer"),
        ("vq", {}, "ic3net"),
        ("gumbel", {"tokens": 3, "end_token": True}, "transformer"),
        ("dvq", {"continuous": True}, "transformer"),
        ("continuous", {}, "ic3net"),
        ("silent", {}, "transformer"),
    ],
    ids=str,
)
def test_who_hears_only_the_packets_plays_the_same(tmp_path, monkeypatch, channel, channel_config, policy):
    env, trained = team(channel, channel_config, policy)
    monkeypatch.setattr("marlcomm.analysis.trace._WORLDS_AT_ONCE", 32)
    code = frozen_code(env, trained, 0, 40)
    trace = record(env, trained, 0, 64, code)
    trace.write(tmp_path / "wire.npz")
    again = Trace.read(tmp_path / "wire.npz")
    prove(env, trained, again)
    assert len(again.returns) == 64
    assert len(again.sizes) == 0 if channel == "silent" else len(again.sizes) > 100


def test_another_run_is_not_proved():
    env, trained = team()
    trace = record(env, trained, 0, 40, frozen_code(env, trained, 0, 40))
    with torch.no_grad():
        trained.action_head.bias += 1
    with pytest.raises(WireError, match="a team with other weights"):
        prove(env, trained, trace)
    env, trained = team()
    actions = trace.actions.copy()
    actions[7] += np.uint64(1)
    with pytest.raises(WireError, match="actions of episode 7 are not those that were recorded"):
        prove(env, trained, replace(trace, actions=actions))
    with pytest.raises(WireError, match="alphabet"):
        prove(env, trained, replace(trace, about=trace.about | {"code": frozen_code(*team("vq"), 0, 40).state()}))


def test_damaged_packets_are_refused():
    env, trained = team()
    trace = record(env, trained, 0, 40, frozen_code(env, trained, 0, 40))
    data = trace.data.copy()
    data[100] ^= 4
    with pytest.raises(WireError, match="damaged"):
        prove(env, trained, replace(trace, data=data))


def test_other_words_lead_elsewhere():
    """The hash is that of these packets, but they say what nobody said."""
    env, trained = team()
    code = frozen_code(env, trained, 0, 40)
    with torch.no_grad():
        trained.to_message.weight *= 3
    loud = record(env, trained, 0, 40, code)
    with torch.no_grad():
        trained.to_message.weight /= 3
        trained.heard_token[0].weight *= 30  # who hears is moved by it
    quiet = record(env, trained, 0, 40, code)
    about = loud.about | {"team": quiet.about["team"]}
    with pytest.raises(WireError, match=r"(actions|who spoke|returns) of episode \d+ are not those"):
        prove(env, trained, replace(quiet, about=about, data=loud.data, sizes=loud.sizes, episodes=loud.episodes))


def test_what_is_no_trace_is_refused(tmp_path):
    for name, content in (("empty.npz", b""), ("other.npz", b"PK nonsense")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WireError, match="is no trace"):
            Trace.read(tmp_path / name)
    with pytest.raises(WireError, match="is no trace"):
        Trace.read(tmp_path / "missing.npz")


def test_packets_are_of_the_stream_that_was_played(tmp_path):
    env, trained = team()
    code = frozen_code(env, trained, 0, 40)
    usual, tuning = record(env, trained, 0, 20, code), record(env, trained, 0, 20, code, "tuning")
    assert not np.array_equal(usual.actions, tuning.actions)
    tuning.write(tmp_path / "wire.npz")
    prove(env, trained, Trace.read(tmp_path / "wire.npz"))
    with pytest.raises(WireError):
        prove(env, trained, replace(tuning, about=tuning.about | {"stream": "evaluation"}))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    env, trained = team()
    file = tmp_path_factory.mktemp("trace") / "wire.npz"
    record(env, trained, 0, 4, frozen_code(env, trained, 0, 4)).write(file)
    return file


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_trace_is_refused_or_is_the_same(stored, tmp_path_factory, data):
    blob = bytearray(stored.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del blob[data.draw(st.integers(0, len(blob))) :]
    file = tmp_path_factory.mktemp("damaged") / "wire.npz"
    file.write_bytes(blob)
    try:
        found = Trace.read(file)
    except WireError:
        return
    whole = Trace.read(stored)
    assert found.about == whole.about
    assert all(np.array_equal(value, getattr(whole, name)) for name, value in vars(found).items() if name != "about")


@pytest.mark.parametrize("change", ["sizes", "episodes", "actions", "returns", "data"])
def test_a_trace_whose_parts_do_not_fit_together_is_refused(stored, tmp_path, change):
    whole = Trace.read(stored)
    for wrong in (getattr(whole, change)[:-1], getattr(whole, change).astype(complex), np.zeros((2, 2))):
        replace(whole, **{change: wrong}).write(tmp_path / "wire.npz")
        with pytest.raises(WireError, match="is no trace"):
            Trace.read(tmp_path / "wire.npz")


def test_a_run_without_packets_says_how_to_get_them(tmp_path):
    with pytest.raises(ConfigError, match=r"no packets yet in .*: marlcomm evaluate .* --wire stores them"):
        prove_run(Run(tmp_path), experiment({}))
