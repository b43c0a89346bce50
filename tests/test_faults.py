"""What is injected here is in the table of docs/faults.md: runners, learners, worlds, numbers and disks that fail."""

import json
import os
import re
import signal
import time

import numpy as np
import pytest
import ray
from commands import wait_for
from learning import weights
from safetensors import safe_open
from test_rllib import config, largest_difference

from marlcomm.envs.faults import NoAnswerError, WorldError, answered_within
from marlcomm.rllib import checkpoint, recovery
from marlcomm.rllib.compat import runner_actors
from marlcomm.rllib.errors import TrainingError
from marlcomm.rllib.recovery import RESTARTS_IN_A_ROW, LearnerLostError, RunnersLostError, learners_lost_told
from marlcomm.rllib.skipped import NonFiniteGradientsError

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def build(built):
    """Builds algorithms; seconds is how long a round may take."""

    def build(*arguments, seconds=600.0, **settings):
        return built(config(*arguments, log_dir=None, **settings).env_runners(sample_timeout_s=seconds))

    return build


def in_runner(algorithm, runner, function):
    """What a function of one runner returns."""
    return ray.get(runner_actors(algorithm.env_runner_group).actors()[runner].apply.remote(function))


# --- runners ----------------------------------------------------------------------------------------------------------


def test_a_runner_that_is_killed_plays_the_same_round_again(build, tmp_path):
    """Killed in the middle of an episode, then another one between two rounds: the rounds are what they were."""
    team = build(worlds=32, runners=2)
    team.train()
    checkpoint.save(team, tmp_path / "000001")
    undisturbed = [trained(team) for _ in range(2)]
    assert team.figures["runners/restarts"] == team.figures["runners/recovery_seconds"] == 0
    checkpoint.restore(team, tmp_path / "000001")
    in_runner(team, 2, dies_in_step_three)
    check_same(trained(team), undisturbed[0])
    assert team.figures["runners/restarts"] == 1
    assert 0 < team.figures["runners/recovery_seconds"] < 200
    # It lives again before anybody asks it for a round; without its weights it must not play.
    os.kill(in_runner(team, 1, lambda runner: os.getpid()), signal.SIGKILL)
    wait_for(lambda: lives(team, 1))
    check_same(trained(team), undisturbed[1])
    assert team.figures["runners/restarts"] == 1


def trained(team):
    """Weights and figures after another round."""
    team.train()
    return weights(team), {
        name: value for name, value in team.figures.items() if not name.startswith(("time/", "runners/"))
    }


def check_same(now, then):
    assert largest_difference(now[0], then[0]) == 0
    assert now[1] == then[1]


def dies_in_step_three(runner):
    step = runner.env.step

    def dies(actions):
        if runner.env.time == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(actions)

    runner.env.step = dies


def lives(algorithm, runner):
    try:
        return in_runner(algorithm, runner, lambda runner: True)
    except ray.exceptions.RayActorError:
        return False


def test_a_runner_that_dies_again_and_again_stops_the_run(build):
    """Each time it is alive again, and dies before it has played; then it is killed for good."""
    algorithm = build(worlds=6, runners=1)
    actors = runner_actors(algorithm.env_runner_group)
    answers = iter(range(RESTARTS_IN_A_ROW + 1))

    def dead(*arguments, **settings):
        next(answers)
        return {1: ray.exceptions.ActorUnavailableError("the kernel killed it", None)}

    algorithm._runners._ask = dead
    with pytest.raises(
        RunnersLostError, match=r"(?s)env runner 1 \(worlds 0 to 5\) died 4 times in a row in round 0, "
    ):
        algorithm.train()
    assert next(answers, None) is None
    del algorithm._runners._ask
    ray.kill(actors.actors()[1])  # for good
    with pytest.raises(RunnersLostError, match=r"env runner 1 \(worlds 0 to 5\) died and is not started again"):
        algorithm.train()


# --- worlds -----------------------------------------------------------------------------------------------------------


def test_worlds_that_raise_or_hang_or_lie_are_told_by_a_runner(build, monkeypatch):
    """One runner, whose world breaks in one way after the other."""
    algorithm = build(worlds=6, runners=1, seconds=20.0)
    algorithm.train()
    where = r"an env runner failed in round 1:\ntraffic_junction, worlds 0 to 5, episode 1, in step 3: "
    in_runner(algorithm, 1, raises_in_step_three)
    with pytest.raises(TrainingError, match=rf"(?s){where}ValueError: the bridge is out\nTraceback.*in breaks\n"):
        algorithm.train()
    in_runner(algorithm, 1, hangs_in_step_three)
    with pytest.raises(
        TrainingError, match=rf"{where}NoAnswerError: no answer within 0.5 s \(resources.sample_timeout"
    ):
        algorithm.train()
    # Python is never reached: nobody but the training process can notice.
    in_runner(algorithm, 1, hangs_for_good)
    monkeypatch.setattr(algorithm._runners, "_limit", 0.5)
    monkeypatch.setattr(recovery, "_GRACE", 0.5)
    with pytest.raises(
        RunnersLostError, match=r"env runner 1 \(worlds 0 to 5\) did not answer in round 1 within 0.5 s"
    ):
        algorithm.train()


def breaks_in_step_three(runner, how):
    step = type(runner.env).step

    def breaks(actions):
        if runner.env.time == 2:
            how()
        return step(runner.env, actions)

    runner.env.step = breaks


def raises_in_step_three(runner):
    def how():
        raise ValueError("the bridge is out")

    breaks_in_step_three(runner, how)


def hangs_in_step_three(runner):
    runner.config.sample_timeout_s = 0.5
    breaks_in_step_three(runner, lambda: time.sleep(60))


def hangs_for_good(runner):
    def how():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(60)

    breaks_in_step_three(runner, how)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda now: now.observations[4, 1, 2].fill_(np.nan), "observation 2 of agent slot 1 is nan (1 numbers of obs"),
        (lambda now: now.rewards[4, 3].fill_(-np.inf), "the reward of agent slot 3 is -inf (1 numbers of rewards in "),
    ],
    ids=["observation", "reward"],
)
def test_numbers_that_are_none_are_told_with_world_agent_and_step(build, spoil, said):
    algorithm = build(worlds=6)
    runner = algorithm.env_runner
    step = runner.env.step

    def spoilt(actions):
        now = step(actions)
        if runner.env.time == 3:
            spoil(now)
        return now

    runner.env.step = spoilt
    with pytest.raises(WorldError, match=re.escape(f"traffic_junction, world 4, episode 0, in step 3: {said}")):
        algorithm.train()


def test_a_world_that_hangs_in_the_training_process_is_told(build):
    algorithm = build(worlds=6)
    algorithm.env_runner.config.sample_timeout_s = 0.5
    breaks_in_step_three(algorithm.env_runner, lambda: time.sleep(60))
    with pytest.raises(WorldError, match=r"episode 0, in step 3: NoAnswerError: no answer within 0.5 s"):
        algorithm.train()


def test_the_alarm_of_somebody_else_rings_all_the_same():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *arguments: rung.append(1))
    left = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with answered_within(5.0):  # theirs rings first, and alone
            time.sleep(0.3)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(NoAnswerError), answered_within(0.1):
            time.sleep(10)
        time.sleep(0.6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *left)
    assert rung == [1, 1]


# --- numbers in learners ----------------------------------------------------------------------------------------------


def test_every_learner_skips_and_it_counts_once(build):
    """One world's value targets are poisoned: both learners skip, both keep their share, and one file names it."""
    algorithm = build(learners=2, num_epochs=1, num_minibatches=1)
    sample = algorithm._sample

    def poisoned():
        samples = sample()
        samples[0].batch["value_targets"][5] = np.nan
        return samples

    algorithm._sample = poisoned
    before = weights(algorithm)
    algorithm.train()
    assert algorithm.figures["update/skipped"] == 1
    assert largest_difference(before, weights(algorithm)) == 0
    files = sorted((algorithm.folder / "skipped").iterdir())
    assert [file.name for file in files] == [f"000000-0000-learner{learner}.safetensors" for learner in (0, 1)]
    named = []
    for file in files:
        with safe_open(file, "np") as kept:
            about = {name: json.loads(value) for name, value in kept.metadata().items()}
            if about["columns"]:
                named.append((about["columns"], kept.get_tensor("world")[0]))  # the poisoned row comes first
        assert (about["round"], about["minibatch"], about["loss"]) == (0, 0, "nan")
        assert about["gradients"]
    assert named == [(["value_targets"], 5)]


def test_what_is_no_number_is_skipped_counted_kept_and_stops_the_run(build, monkeypatch):
    algorithm = build(num_epochs=1, num_minibatches=1, max_skipped=7)
    objective = type(algorithm.learner_group._learner.objective)
    before = weights(algorithm)
    original = objective.loss
    # The first minibatch has a loss that is infinite, and gradients that are not.
    wrong = iter([lambda total: total + np.inf, *[lambda total: total * np.nan] * 6])
    monkeypatch.setattr(objective, "loss", lambda *arguments: poison(original(*arguments), next(wrong)))
    for _ in range(6):
        algorithm.train()
        assert algorithm.figures["update/skipped"] == 1
    assert largest_difference(before, weights(algorithm)) == 0
    with pytest.raises(NonFiniteGradientsError, match=r"7 updates in a row .*encoder\.0\.weight.*000006-0000-learner0"):
        algorithm.train()
    assert len(list((algorithm.folder / "skipped").iterdir())) == 5


def poison(loss, how):
    return type(loss)(how(loss.total), loss.stats)


# --- learners ---------------------------------------------------------------------------------------------------------


def test_a_learner_that_is_killed_is_told(build):
    algorithm = build(learners=1)
    algorithm.train()
    (pid,) = [result.get() for result in algorithm.learner_group.foreach_learner(lambda learner: os.getpid())]
    os.kill(pid, signal.SIGKILL)
    said = "a learner died, and with it what was learned since the last checkpoint: "
    with pytest.raises(LearnerLostError, match=said), learners_lost_told():
        algorithm.train()


def test_the_table_names_tests_that_are_there(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 10
    for file, name in named:
        assert f"\ndef {name}(" in (pytestconfig.rootpath / "tests" / file).read_text(encoding="utf-8"), name
