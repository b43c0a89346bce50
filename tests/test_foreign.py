"""Third-party PettingZoo environments as batched worlds, in this process and in workers."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import foreign_worlds
import numpy as np
import pytest
import supersuit
import torch
from commands import wait_for
from gymnasium.spaces import Box
from mpe2 import simple_reference_v3, simple_speaker_listener_v4
from pettingzoo.butterfly import knights_archers_zombies_v11

from marlcomm.envs.check import check_env
from marlcomm.envs.faults import answered_within
from marlcomm.envs.foreign.copies import CopyError
from marlcomm.envs.foreign.spaces import Points
from marlcomm.envs.foreign.world import copy_seeds
from marlcomm.envs.pettingzoo import TeamParallelEnv
from marlcomm.policies.evaluation import evaluate, evaluate_script
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ENVS, ConfigError

SPEAKER = "mpe2.simple_speaker_listener_v4:parallel_env"
REFERENCE = "mpe2.simple_reference_v3:parallel_env"
ZOMBIES = "pettingzoo.butterfly.knights_archers_zombies_v11:parallel_env"
DEADLY = {"max_cycles": 40, "spawn_delay": 2, "line_death": True}
FIELDS = ("observations", "rewards", "alive", "spawned", "terminated", "truncated")


def ours(name):
    return f"foreign_worlds:{name}"


@pytest.fixture
def world():
    """Makes worlds, and ends their workers after the test."""
    made = []

    def make(maker, **settings):
        made.append(ENVS.row("pettingzoo").load()(ENVS.check("pettingzoo", {"maker": maker, **settings})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def play(env, worlds=4, seed=1, choose=None, steps=None):
    numbers = torch.arange(worlds) if isinstance(worlds, int) else torch.tensor(worlds)
    moments = [env.reset(seed, numbers, torch.zeros_like(numbers))]
    for _ in range(env.spec.horizon if steps is None else steps):
        actions = env.scripts()["random"](env) if choose is None else choose(env)
        moments.append(env.step(actions))
    return moments


def column(moments, name):
    return torch.stack([getattr(moment, name) for moment in moments], 1)


def same(first, second, rows=slice(None)):
    return all(torch.equal(column(first, name)[rows], column(second, name)) for name in FIELDS)


# --- what is played ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "module", "kwargs"),
    [
        (REFERENCE, simple_reference_v3, {}),
        (SPEAKER, simple_speaker_listener_v4, {}),
        (ZOMBIES, knights_archers_zombies_v11, DEADLY),
    ],
)
def test_a_world_plays_what_the_environment_plays_under_supersuits_padding(world, maker, module, kwargs):
    env = world(maker, kwargs=kwargs)
    padded = supersuit.pad_action_space_v0(supersuit.pad_observations_v0(module.parallel_env(**kwargs)))
    names = padded.possible_agents
    assert env.spec.observation_size == np.prod(padded.observation_space(names[0]).shape)
    assert env.spec.num_actions == padded.action_space(names[0]).n
    now = env.reset(3, torch.tensor([5]), torch.tensor([2]))
    observations, _ = padded.reset(seed=int(copy_seeds(env.keys, "train")[0]))
    ended = False
    while not ended:
        for slot, name in enumerate(names):
            seen = observations[name].ravel() if now.alive[0, slot] else 0
            assert np.array_equal(
                now.observations[0, slot].numpy(), np.float32(seen + np.zeros(env.spec.observation_size))
            )
        actions = env.scripts()["random"](env)
        alive = now.alive[0].tolist()
        assert alive == [name in padded.agents for name in names]
        chosen = {name: int(actions[0, slot]) for slot, name in enumerate(names) if alive[slot]}
        observations, rewards, terminated, truncated, _ = padded.step(chosen)
        now = env.step(actions)
        wanted = [rewards[name] if alive[slot] else 0 for slot, name in enumerate(names)]
        assert np.allclose(now.rewards[0], np.float32(wanted))
        ended = not padded.agents
        assert bool(now.terminated[0] | now.truncated[0]) == ended
    assert bool(now.truncated[0]) == any(truncated[name] and not terminated[name] for name in truncated)


def test_who_leaves_is_paid_a_last_time_and_who_is_cut_off_is_not_dead(world):
    env = world(ours("Leavers"))
    assert env.spec.choices == (2, 3, 4)
    assert (env.spec.observation_size, env.spec.num_actions, env.spec.horizon) == (3, 4, 6)
    moments = play(env, choose=lambda env: torch.tensor([[1, 2, 3]] * 4))
    alive, rewards = column(moments, "alive"), column(moments, "rewards")
    # Before each of six steps, and after the last: agent c is cut off by its time limit, and values go on from there.
    assert alive[0].T.int().tolist() == [[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]
    assert torch.allclose(
        rewards[0].T,
        torch.tensor([[0, 0.01, 10, 0, 0, 0, 0], [0, 0.02, 0.02, 0.02, 10, 0, 0], [0, *[0.03] * 6]]),
    )
    assert column(moments, "truncated")[0].tolist() == [False] * 6 + [True]
    assert not column(moments, "terminated").any()
    assert (column(moments, "observations")[~alive] == 0).all()
    assert (column(moments, "observations")[:, :, 0, 1:] == 0).all()  # padding
    assert [float(moment.info["success"][0]) for moment in moments] == [0, 0, 0, 1, 1, 1, 1]
    assert moments[-1].info["survivors"].tolist() == [1] * 4
    sight = [float(moment.observations[0, 2].abs().min()) for moment in moments]
    assert min(sight) > 0


def test_an_end_that_all_share_is_told_from_a_cut(world):
    moments = play(world(ZOMBIES, kwargs={**DEADLY, "max_cycles": 200}, horizon=200), worlds=3)
    terminated, alive = column(moments, "terminated"), column(moments, "alive")
    assert terminated[:, -1].any()
    for row in terminated[:, -1].nonzero().flatten():
        first = int(terminated[row].int().argmax())
        assert terminated[row, first:].all()
        assert not alive[row, first:].any()
        assert not column(moments, "rewards")[row, first + 1 :].any()
    died = alive[:, 0] & ~alive[:, first - 1]
    assert died.any()  # some died before the others


def test_a_shorter_horizon_cuts(world):
    moments = play(world(ours("Leavers"), horizon=3))
    assert column(moments, "truncated")[0].tolist() == [False, False, False, True]


def test_agents_may_be_away_for_a_while_and_come_back_with_nothing_remembered(world):
    moments = play(world(ours("Returners")))
    assert column(moments, "alive")[0, :, 0].int().tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert column(moments, "spawned")[0].nonzero().tolist() == [[4, 0]]


def test_a_success_may_be_a_return(world):
    env = world(ours("Leavers"), success_return=20.10)
    good = play(env, choose=lambda env: torch.ones(4, 3).long())[-1].info["success"]
    bad = play(env, choose=lambda env: torch.zeros(4, 3).long())[-1].info["success"]
    assert good.tolist() == [1] * 4  # 10 + 10 + 0.01 x (1 + 3 + 6)
    assert bad.tolist() == [0] * 4


def test_actions_beyond_an_agents_own_are_its_first(world):
    env = world(ours("Leavers"))
    rewards = play(env, choose=lambda env: torch.tensor([[3, 3, 3]] * 4))[1].rewards
    assert torch.allclose(rewards[0], torch.tensor([0, 0, 0.03]))


def test_random_choices_are_spread_over_what_each_agent_has(world):
    env = world(ours("Leavers"), copies=500)
    env.reset(1, torch.arange(500), torch.zeros(500, dtype=torch.int64))
    drawn = env.scripts()["random"](env)
    for slot, count in enumerate((2, 3, 4)):
        shares = torch.bincount(drawn[:, slot], minlength=4) / 500
        assert torch.allclose(shares[:count], torch.tensor(1 / count), atol=0.08)
        assert not shares[count:].any()


def test_boxes_of_different_units_are_halves_of_each_agents_own(world):
    env = world(ours("Boxes"))
    assert env.spec.action_bounds == ((-1.0,) * 4, (1.0,) * 4)
    moments = play(env, choose=lambda env: torch.tensor([[[-1, 0, 0.5, 1], [0.2, 0, 0, 0]]] * 4))
    assert torch.allclose(moments[1].rewards[0], torch.tensor([1.0, 3.0]))  # -2 + 0 + 1 + 2, and 0.6 of 5
    assert moments[0].observations[0, 0].tolist() == [0, 0, 1, *[0] * 9]  # 3 of 1..4
    assert torch.allclose(moments[0].observations[0, 1], torch.arange(12) * 20 / 255)


def test_boxes_that_agree_keep_their_units(world):
    env = world(SPEAKER, kwargs={"continuous_actions": True})
    assert env.spec.action_bounds == ((0.0,) * 5, (1.0,) * 5)
    assert env.spec.message_bits == (96.0, 0.0)
    assert play(env)[-1].truncated.all()


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "settings"),
    [
        (REFERENCE, {}),
        (SPEAKER, {"strip_comm": True, "kwargs": {"continuous_actions": True}}),
        (ZOMBIES, {"kwargs": DEADLY}),
        ("foreign_worlds:Leavers", {}),
    ],
)
def test_workers_batches_and_order_make_no_difference(world, maker, settings):
    here, there = world(maker, **settings), world(maker, processes=2, **settings)
    whole = play(here, 5)
    assert same(whole, play(there, 5))
    assert same(whole, play(there, [3, 1]), [3, 1])
    assert same(whole, play(here, [4]), [4])
    assert not same(whole, play(here, 5, seed=2))


def processes_below(pid):
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    found = {int(word) for word in out.split()}
    commands = {one: Path(f"/proc/{one}/cmdline") for one in found}
    return {one for one, file in commands.items() if file.exists() and b"foreign.worker" in file.read_bytes()}


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_with_close_and_with_the_world_and_leave_nothing(world):
    memory = set(os.listdir("/dev/shm"))
    env = world(ours("Leavers"), processes=2)
    assert processes_below(os.getpid()) == set()  # not before they are needed
    play(env, 3)
    assert len(processes_below(os.getpid())) == 2
    env.close()
    assert processes_below(os.getpid()) == set()
    play(env, 3)  # begins anew
    assert len(processes_below(os.getpid())) == 2
    env.close()
    another = ENVS.row("pettingzoo").load()(env.settings)
    play(another, 3)
    del another
    assert processes_below(os.getpid()) == set()
    assert set(os.listdir("/dev/shm")) <= memory


def processor_time(pid):
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_the_processor_time_of_workers_is_counted(world):
    env = world(ours("Leavers"), processes=2)
    assert env.worker_seconds == 0
    play(env, 3)
    first = env.worker_seconds
    assert first == pytest.approx(sum(map(processor_time, processes_below(os.getpid()))), abs=0.1)
    env.close()
    assert env.worker_seconds == first > 0
    play(env, 3)  # by others
    assert env.worker_seconds > first
    assert world(ours("Leavers")).worker_seconds == 0


PLAYS_FOR_EVER = """
import signal, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in the background may have it ignored
from marlcomm.registry import ENVS
settings = ENVS.check("pettingzoo", {"maker": "foreign_worlds:Leavers", "processes": 2})
env = ENVS.row("pettingzoo").load()(settings)
while True:
    env.reset(1, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    print("on", flush=True)
    for _ in range(6):
        env.step(torch.zeros(4, 3, dtype=torch.int64))
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)])
def test_workers_end_with_who_plays(how, code):
    """Ctrl-C reaches the whole group, as from a terminal; after a kill nobody is left to end them."""
    memory = set(os.listdir("/dev/shm"))
    player = subprocess.Popen(
        [sys.executable, "-c", PLAYS_FOR_EVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert player.stdout.readline() == b"on\n"
        workers = processes_below(player.pid)
        assert len(workers) == 2
        if how == signal.SIGINT:
            os.killpg(player.pid, how)
        else:
            player.kill()
        _, said = player.communicate(timeout=60)
    finally:
        player.kill()
    assert player.returncode == code
    assert (b"KeyboardInterrupt" in said) == (how == signal.SIGINT)
    assert b"foreign/worker.py" not in said
    wait_for(lambda: not any(map(is_running, workers)))
    assert set(os.listdir("/dev/shm")) <= memory


@pytest.mark.parametrize("processes", [0, 2])
def test_a_failure_says_which_copy_when_and_where(world, processes):
    env = world(ours("Failing"), processes=processes)
    seeds = []
    with pytest.raises(CopyError) as failure:
        play(env, 30, choose=lambda env: seeds.append(env.keys) or torch.zeros(30, 3).long())
    begun = copy_seeds(seeds[0], "train").tolist()
    # Copies are stepped in their order; of several workers the first one that failed is heard.
    failing = [copy for copy, seed in enumerate(begun) if seed % 3 == 0]
    said = re.search(
        r"copy (\d+) of foreign_worlds:Failing, begun with seed (\d+), failed in its step 3: Arith", str(failure.value)
    )
    assert int(said[1]) in failing
    assert int(said[2]) == begun[int(said[1])]
    trace = str(failure.value) if processes else str(failure.getrepr())
    assert 'raise ArithmeticError("the world broke")' in trace
    assert processes_below(os.getpid()) == set()
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(torch.zeros(30, 3).long())
    assert env._first is None or processes  # the next episode has new copies, the first one among them


def test_actions_stay_inside_a_box_in_its_own_type():
    space = Box(-0.1, 0.1, (2,), np.float64)
    points = Points("a", space, None, stripped=False)
    assert space.contains(points.action(np.array([0.1, -0.1], np.float32)))  # float32's 0.1 lies beyond it


def test_a_worker_that_ends_is_told(world):
    env = world(ours("Dying"), processes=2)
    with pytest.raises(CopyError, match="a worker process ended with exit code 7"):
        play(env, 2)


def test_a_worker_that_hangs_is_told(world, monkeypatch):
    """Copies 0 and 2 are one process's, which does not answer; it is ended with the others."""
    monkeypatch.setattr("marlcomm.envs.foreign.workers._PATIENCE", 0.1)
    env = world(ours("Hanging"), processes=2, copies=3)
    said = r"no answer within 0.5 s \(resources.sample_timeout\) from the worker process of copies 0, 2 of"
    env.reset(0, torch.arange(3), torch.zeros(3).long())
    env.step(torch.zeros(3, 3).long())
    with pytest.raises(CopyError, match=said), answered_within(0.5):
        env.step(torch.zeros(3, 3).long())
    assert processes_below(os.getpid()) == set()


def test_more_worlds_than_copies_are_played_in_turns(world):
    settings = {"maker": ours("Leavers"), "copies": 3}
    names = TeamNames("pettingzoo", settings, "transformer", {"hidden_size": 16}, "ddcl", {"delta": 0.5})
    few, many = names.make_env(), TeamNames(**vars(names) | {"env_config": settings | {"copies": 8}}).make_env()
    policy, worlds = names.make_policy(many, 0), torch.arange(8)
    parts, whole = (Player(env, policy, 0).play(worlds, worlds) for env in (few, many))
    for name in ("observations", "alive", "actions", "rewards", "lengths", "worlds"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name
    assert torch.equal(parts.talk.symbols, whole.talk.symbols)
    again = Player(few, policy, 0).play(worlds, worlds, heard=whole.talk)
    assert torch.equal(again.actions, whole.actions)
    assert evaluate(few, policy, 0, 20)["return"] == pytest.approx(evaluate(many, policy, 0, 20)["return"])
    with pytest.raises(ValueError, match=r"4 worlds, but env\.copies is 3"):
        play(few, 4)


# --- words ------------------------------------------------------------------------------------------------------------


def test_words_are_found_counted_and_taken_away_in_mpe(world):
    plain, stripped = world(SPEAKER), world(SPEAKER, strip_comm=True)
    assert plain.spec.message_bits == pytest.approx((np.log2(3), 0))
    assert (plain.spec.speakers, plain.spec.actors, plain.spec.choices) == (None, None, (3, 5))
    assert (plain.spec.observation_size, stripped.spec.observation_size) == (11, 8)
    assert (stripped.spec.speakers, stripped.spec.actors) == ((True, False), (False, True))
    assert (stripped.spec.message_bits, stripped.spec.choices) == (None, (1, 5))
    reference = world(REFERENCE, strip_comm=True)
    assert (reference.spec.num_actions, reference.spec.observation_size) == (5, 11)  # of 50, and of 21
    assert (reference.spec.speakers, reference.spec.actors) == (None, None)
    spread = world("mpe2.simple_spread_v3:parallel_env", strip_comm=True)
    assert (spread.spec.message_bits, spread.spec.observation_size) == (None, 18)  # nothing to take away


def test_stripped_agents_hear_and_say_nothing_and_move_as_before(world):
    """An action of 50 is a move of 5 and a word of 10."""
    plain, stripped = world(REFERENCE), world(REFERENCE, strip_comm=True)
    moves = torch.randint(5, (26, 3, 2), generator=torch.manual_seed(0))
    words = torch.randint(10, (26, 3, 2), generator=torch.manual_seed(1))
    talking = play(plain, 3, choose=lambda env: (moves + 5 * words)[env.time])
    silent = play(stripped, 3, choose=lambda env: moves[env.time])
    for name in ("rewards", "truncated"):
        assert torch.equal(column(talking, name), column(silent, name))
    assert torch.equal(column(talking, "observations")[..., :11], column(silent, "observations"))
    assert column(talking, "observations")[..., 11:].any()


def test_words_may_be_declared(world):
    declared = {"message_actions": {"a": 3}, "message_observations": {"b": [1, 2]}}
    plain = world(ours("Telling"), message_actions={"a": 3})
    assert plain.spec.message_bits == pytest.approx((np.log2(3), 0))
    heard = column(play(plain, 1, choose=lambda env: torch.tensor([[5, 0]])), "observations")[0, 1:, 1]
    assert heard[0].tolist() == pytest.approx([0.1, 2])  # move 1, word 2
    stripped = world(ours("Telling"), strip_comm=True, **declared)
    assert (stripped.spec.num_actions, stripped.spec.speakers) == (2, (True, False))
    assert stripped.spec.observation_size == 2  # of a, who hears nothing and so loses nothing
    moments = play(stripped, 1, choose=lambda env: torch.tensor([[1, 0]]))
    assert not column(moments, "observations")[..., 1].any()
    assert world(ours("Telling"), strip_comm=True, speakers=["b"], **declared).spec.speakers == (False, True)
    assert world(SPEAKER, message_actions={}).spec.message_bits is None  # declared to be none


@pytest.mark.parametrize("channel", ["silent", "ddcl"])
def test_silence_takes_the_words_away_and_others_count_them(channel):
    names = TeamNames("pettingzoo", {"maker": SPEAKER}, "transformer", {"hidden_size": 16}, channel, {})
    env = names.make_env()
    figures = evaluate(env, names.make_policy(env, 0), 0, 10)
    if channel == "silent":
        assert env.spec.setting.endswith("-stripped")
        assert not any(name.startswith("env_message_bits") for name in figures)
        return
    assert figures["env_message_bits_per_episode"] == pytest.approx(25 * np.log2(3))
    assert figures["env_message_bits_per_env_step"] == pytest.approx(np.log2(3))
    assert figures["env_message_bits_per_agent_step"] == pytest.approx(np.log2(3) / 2)


def test_only_the_living_say_words():
    settings = {"maker": ours("Leavers"), "message_actions": {"a": 2, "c": 4}}
    names = TeamNames("pettingzoo", settings, "transformer", {"hidden_size": 16}, "ddcl", {})
    env = names.make_env()
    figures = evaluate(env, names.make_policy(env, 0), 0, 5)
    assert figures["env_message_bits_per_episode"] == pytest.approx(2 * 1 + 6 * 2)
    assert figures["env_message_bits_per_agent_step"] == pytest.approx(14 / (2 + 4 + 6))


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["transformer", "ic3net"])
def test_policies_choose_none_but_an_agents_own_actions(policy):
    names = TeamNames("pettingzoo", {"maker": ours("Leavers"), "copies": 200}, policy, {"hidden_size": 16}, "ddcl", {})
    env = names.make_env()
    team = names.make_policy(env, 0)
    with torch.no_grad():
        team.action_head.bias[:] = torch.tensor([0.0, 0, 0, 3])
    for greedy in (False, True):
        rollout = Player(env, team, 0).play(torch.arange(200), torch.zeros(200, dtype=torch.int64), greedy=greedy)
        highest = rollout.actions.amax((0, 1)).tolist()
        assert all(most < count for most, count in zip(highest, env.spec.choices, strict=True))
        assert greedy or highest == [1, 2, 3]
    logits = torch.zeros(1, 3, 4)
    ours_only = team.distribution.possible(logits)
    assert team.distribution.entropies(ours_only)[0].tolist() == pytest.approx(np.log([2, 3, 4]).tolist())
    # A draw that rounding has put beyond the last possible action.
    last = team.distribution.sample(ours_only, torch.full((1, 3, 1), 1.0))
    assert last.tolist() == [[1, 2, 3]]


# --- contract and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"maker": ours("Leavers"), "kwargs": {"render_mode": "rgb_array"}},
        {"maker": ours("Boxes")},
        {"maker": SPEAKER, "strip_comm": True},
        {"maker": ZOMBIES, "kwargs": {**DEADLY, "max_cycles": 8}},
    ],
    ids=str,
)
def test_it_keeps_the_contract_of_a_world(settings):
    checked = ENVS.check("pettingzoo", settings)
    findings = check_env(lambda: ENVS.row("pettingzoo").load()(checked))
    assert [finding.problem for finding in findings if finding.problem] == []


def test_it_is_a_pettingzoo_environment_again(world):
    face = TeamParallelEnv(world(ours("Leavers")))
    assert [face.action_space(name).n for name in face.possible_agents] == [2, 3, 4]


def test_it_draws_the_environments_picture(world):
    for processes in (0, 2):
        env = world(ours("Leavers"), kwargs={"render_mode": "rgb_array"}, processes=processes)
        play(env, 3, steps=2)
        assert (env.render(2) == 2).all()
    with pytest.raises(NotImplementedError, match="render_mode"):
        world(ours("Leavers")).render()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"maker": "mpe2"}, "got 'mpe2', wanted \"package.module:function\""),
        ({"maker": "no_such_package:env"}, "env.maker: cannot import 'no_such_package': ModuleNotFoundError"),
        ({"maker": ours("Leaver")}, "has no 'Leaver'; did you mean 'Leavers'?"),
        ({"maker": ours("number")}, "is int, wanted a function"),
        ({"maker": ours("Leavers"), "kwargs": {"size": 3}}, "Leavers(size=3) raised TypeError"),
        ({"maker": ours("Leavers"), "kwargs": {"sizes": {3: 4}}}, "wanted what a config can hold: finite numbers"),
        ({"maker": ours("Leavers"), "kwargs": {"size": float("inf")}}, "wanted what a config can hold"),
        ({"maker": ours("Alone")}, "makes Alone, which is of one agent, wanted PettingZoo's ParallelEnv or AECEnv"),
        ({"maker": "pathlib:Path"}, "Path, wanted PettingZoo's"),
        ({"maker": "pettingzoo.classic.connect_four_v3:env"}, "is_parallelizable"),
        ({"maker": ours("Nested")}, "a observes a Dict space, wanted one of Box, Discrete"),
        ({"maker": ours("Several")}, "the actions of a are MultiDiscrete([2 2]), wanted a Discrete or a Box space"),
        ({"maker": ours("Mixed")}, "some agents choose from a few actions and others from a box"),
        ({"maker": ours("Unbounded")}, "the actions of a have no bounds"),
        ({"maker": ours("Nameless")}, "names no possible_agents"),
        ({"maker": ours("Endless")}, "env.horizon: foreign_worlds:Endless does not say how long"),
        ({"maker": ours("Leavers"), "message_actions": {"A": 2}}, "env.message_actions: unknown agent 'A'"),
        ({"maker": ours("Leavers"), "message_actions": {"b": 2}}, "the 3 actions of b cannot say 2 words"),
        ({"maker": ours("Leavers"), "message_actions": {"b": 1}}, "message_actions: got 1 words of b"),
        ({"maker": ours("Leavers"), "message_observations": {"b": [2, 1]}}, "wanted the first number and the last + 1"),
        (
            {
                "maker": ours("Telling"),
                "message_actions": {"a": 3},
                "message_observations": {"b": [1, 5]},
                "strip_comm": True,
            },
            "b has no number 4: it observes 2 numbers",
        ),
        ({"maker": "mpe2.simple_crypto_v3:parallel_env", "strip_comm": True}, "all that agents do is talk"),
        ({"maker": ours("Leavers"), "speakers": ["z"]}, "env.speakers: unknown agent 'z'"),
        ({"maker": ours("Leavers"), "marker": 1}, "env.marker: unknown key (value 1); did you mean 'maker'"),
        ({}, "env.maker: a value is required"),
    ],
    ids=str,
)
def test_what_cannot_be_played_is_refused_in_a_sentence(settings, said):
    with pytest.raises(ConfigError) as refusal:
        ENVS.row("pettingzoo").load()(ENVS.check("pettingzoo", settings))
    assert said in str(refusal.value)


def test_supersuit_is_asked_for(world, monkeypatch):
    monkeypatch.setattr("marlcomm.envs.foreign.spaces.supersuit", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'marlcomm[pettingzoo]'")):
        world(ours("Leavers"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Strangers", "'stranger' appears and is none of possible_agents (a, b, c)"),
        ("Lying", "a observes 9 numbers, its observation space says 1"),
    ],
)
def test_environments_that_break_their_word_are_told(world, name, said):
    with pytest.raises(CopyError, match=re.escape(said)):
        play(world(ours(name)))


@pytest.mark.parametrize("continuous", [False, True])
def test_scripts_of_ones_own_are_floor_and_ceiling(world, pytestconfig, monkeypatch, continuous):
    """The example: silence goes to the middle of all landmarks, the oracle to the right one and no further."""
    monkeypatch.syspath_prepend(pytestconfig.rootpath)
    kwargs = {"continuous_actions": continuous}
    named = {key: f"examples.speaker_listener:{name}" for key, name in (("floor", "silence"), ("ceiling", "oracle"))}
    env = world("examples.speaker_listener:parallel_env", kwargs=kwargs, strip_comm=True, **named)
    assert (env.spec.floor, env.spec.ceiling) == ("silence", "oracle")
    found = {name: evaluate_script(env, script, 0, 32) for name, script in env.scripts().items()}
    assert found["random"]["return"] < 2 * found["silence"]["return"] < 3.5 * found["oracle"]["return"] < 0
    assert found["oracle"]["success"] > 0.95
    assert found["silence"]["success"] < 0.1
    last = play(env, 8)[-1]
    goal = last.observations[:, 0, :3].argmax(-1)
    distance = last.observations[:, 1, 2:8].view(8, 3, 2)[torch.arange(8), goal].norm(dim=-1)
    assert torch.equal(distance < 0.1, last.info["success"].bool())
    with pytest.raises(ConfigError, match=r"env.floor: examples.speaker_listener has no 'silent'; .*'silence'"):
        world("examples.speaker_listener:parallel_env", floor="examples.speaker_listener:silent")


def test_a_card_is_measured_of_a_named_environment_only(here, tmp_path):
    assert "has no card of its own" in here("bench", "card", "pettingzoo", code=2).stderr
    setting = ["env.maker=foreign_worlds:Leavers", "env.copies=5"]
    out = here("bench", "card", "pettingzoo", *setting, "--episodes", 20, "--out", tmp_path / "card.json").stdout
    assert "foreign_worlds:Leavers-horizon6" in out
    assert '"random"' in (tmp_path / "card.json").read_text()
    assert "use --out" in here("bench", "card", "pettingzoo", *setting, "--write", code=2).stderr


def test_the_module_of_the_tests_is_what_workers_import():
    assert Path(foreign_worlds.__file__).parent == Path(__file__).parent
