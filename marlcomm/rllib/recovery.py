"""Rounds of remote runners, and what is done about processes that die.

All draws of a round are keyed and runners hold nothing but weights, so a runner that Ray has started anew is given the
weights and plays the same round of the same worlds: the run is, bit for bit, the one in which nothing happened.
Learners hold what no other process has: a run without one of them is over, and goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, sleep
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from marlcomm.rllib.compat import ray, runner_actors
from marlcomm.rllib.errors import TrainingError
from marlcomm.rllib.runner import Sample

if TYPE_CHECKING:
    from marlcomm.rllib.algorithm import TeamAlgorithm

RESTARTS_IN_A_ROW = 3
_GRACE = 10.0  # seconds for a runner to say itself, and better, that it takes too long
_PING = 5.0  # seconds for an answer of a runner that lives
_PAUSE = 0.2  # seconds between pings
_NOBODY: Mapping[int, Any] = MappingProxyType({})

_log = logging.getLogger(__name__)


class RunnersLostError(TrainingError):
    """Runners do not answer, or die again and again."""


class LearnerLostError(TrainingError):
    """A learner died, and with it what was learned since the last checkpoint."""


class RemoteRunners:
    """The remote runners of an algorithm, who play whole rounds.

    Attributes:
        restarts: how many were started anew in the last round.
        recovery_seconds: how long the last round waited for them to play again what was lost; 0 where nobody died.
    """

    def __init__(self, algorithm: TeamAlgorithm) -> None:
        self._algorithm = algorithm
        self._actors = runner_actors(algorithm.env_runner_group)
        self._limit = float(algorithm.config.sample_timeout_s)
        self.restarts, self.recovery_seconds = 0, 0.0

    def play(
        self,
        how: dict[str, Any],
        state: Callable[[], dict[str, Any]],
        learned: int,
        played: Mapping[int, Any] = _NOBODY,
    ) -> list[Sample]:
        """A round of every runner, in their order, whoever dies meanwhile.

        Args:
            how: what they are told of it.
            state: what they play it with, for those who come back.
            learned: the rounds that this has learned from.
            played: answers of runners that have been asked before, by their numbers.

        Raises:
            RunnersLostError: a runner did not answer, or died more than `RESTARTS_IN_A_ROW` times in this round.
            TrainingError: a world or the policy failed.
        """
        samples, deaths, first_death = dict[int, Sample](), Counter[int](), 0.0
        while missing := [runner for runner in self._actors.actor_ids() if runner not in samples]:
            answers, played = self._with_their_rows(played) or self._ask(missing, how), _NOBODY
            lost = {}
            for runner, answer in answers.items():
                if isinstance(answer, str):
                    raise TrainingError(f"an env runner failed in round {self._algorithm.round}:\n{answer}")
                if isinstance(answer, Sample) and answer.learned == learned:
                    samples[runner] = answer
                else:
                    lost[runner] = _why(answer)
            if lost:
                deaths.update(list(lost))
                first_death = first_death or perf_counter()
                self._bring_back(lost, deaths)
                self._set_state(sorted(lost), state())
        self.restarts = deaths.total()
        self.recovery_seconds = perf_counter() - first_death if first_death else 0.0
        if self.restarts:
            _log.warning("all env runners play again, after %.1f s", self.recovery_seconds)
        return [samples[runner] for runner in sorted(samples)]

    def _with_their_rows(self, played: Mapping[int, Any]) -> dict[int, Any]:
        """Answers that were given a while ago, None in place of those whose rows died with the runner that has them."""
        if not played:
            return {}
        results = self._actors.foreach_actor(
            "has_weights", remote_actor_ids=list(played), healthy_only=False, timeout_seconds=_PING
        )
        unchanged = {result.actor_id for result in results if result.ok and result.get()}
        return {runner: answer if runner in unchanged else None for runner, answer in played.items()}

    def _ask(self, runners: list[int], how: dict[str, Any]) -> dict[int, Any]:
        """What each runner answers: a sample, the traceback of a failure, None where it has no weights, or Ray's error.

        Raises `RunnersLostError` where one says nothing at all.
        """
        results = self._actors.foreach_actor(
            "try_sample",
            kwargs=how,
            remote_actor_ids=runners,
            healthy_only=False,
            timeout_seconds=self._limit + _GRACE,
        )
        answers = {result.actor_id: result.get() for result in results}
        silent = [runner for runner in runners if runner not in answers]
        for runner in silent:
            ray.kill(self._actors.actors()[runner])  # or whoever stops the run would wait for it
        if silent:
            raise RunnersLostError(
                f"{self._named(silent)} did not answer in round {self._algorithm.round} within {self._limit:g} s: a "
                "world hangs, or a round takes that long and resources.sample_timeout should be more"
            )
        return answers

    def _bring_back(self, lost: dict[int, str], deaths: Counter[int]) -> None:
        """Wait until Ray has started the lost runners anew."""
        round_ = self._algorithm.round
        for runner, reason in lost.items():
            if deaths[runner] > RESTARTS_IN_A_ROW:
                raise RunnersLostError(
                    f"{self._named([runner])} died {deaths[runner]} times in a row in round {round_}, the last time: "
                    f"{reason}"
                )
            _log.warning("%s died in round %d, which it plays again: %s", self._named([runner]), round_, reason)
        waiting, end = sorted(lost), perf_counter() + self._limit
        while waiting := self._still_away(waiting):
            if perf_counter() > end:
                raise RunnersLostError(
                    f"{self._named(waiting)} died in round {round_} and did not come back within {self._limit:g} s: no "
                    "machine has the CPUs for it, or starting it fails"
                )
            sleep(_PAUSE)

    def _set_state(self, runners: list[int], state: dict[str, Any]) -> None:
        kwargs = {"state": ray.put(state)}
        self._actors.foreach_actor("set_state", kwargs=kwargs, remote_actor_ids=runners, timeout_seconds=self._limit)

    def _still_away(self, runners: list[int]) -> list[int]:
        """Those of some runners that do not live; raises `RunnersLostError` where one will not live again."""
        pings = self._actors.foreach_actor(
            "ping", remote_actor_ids=runners, healthy_only=False, mark_healthy=True, timeout_seconds=_PING
        )
        answers = {ping.actor_id: ping.get() for ping in pings}
        for runner, answer in answers.items():
            if isinstance(answer, ray.exceptions.ActorDiedError):
                raise RunnersLostError(f"{self._named([runner])} died and is not started again: {answer}")
        return [runner for runner in runners if answers.get(runner) != "pong"]

    def _named(self, runners: list[int]) -> str:
        """Runners with their worlds."""
        worlds = self._algorithm.config.num_envs_per_env_runner
        each = [f"{runner} (worlds {(runner - 1) * worlds} to {runner * worlds - 1})" for runner in runners]
        return f"env runner{'s' * (len(each) > 1)} {', '.join(each)}"


def _why(answer: Any) -> str:
    """Why an answer is no sample of the round."""
    if isinstance(answer, Sample):
        return "it had older weights"
    return str(answer or "it was started anew before it played").partition("\n")[0]


@contextmanager
def learners_lost_told() -> Iterator[None]:
    """Raise `LearnerLostError` in place of Ray's errors; those of runners never come this far."""
    try:
        yield
    except ray.exceptions.RayActorError as error:
        reason = str(error).strip().splitlines()
        raise LearnerLostError(
            f"a learner died, and with it what was learned since the last checkpoint: {reason[0]}"
        ) from error
