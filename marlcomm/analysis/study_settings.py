"""What a study's file says: which teams to train on a world and with which seeds, and what they are judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from marlcomm.analysis.trainings import team_name
from marlcomm.registry import Settings, nearest

CONTINUOUS, SILENT = "continuous", "silent"  # the teams that others stand beside


class Afterwards(Settings):
    """Teams that are trained already, evaluated under changes."""

    of: str = Field(description="whose teams")
    changes: tuple[str, ...] = Field(description="channel.KEY=VALUE or env.KEY=VALUE, as for marlcomm evaluate")


class Hull(Settings):
    """Teams that are to stand on or above the upper hull of others, over bits."""

    of: tuple[str, ...] = Field(min_length=1, description="labels whose hull it is")
    above: tuple[str, ...] = Field(min_length=1, description="labels of who is compared with it")


class StudySettings(Settings):
    """What is trained, and what it is judged by."""

    title: str = Field(description="of its section on the page of results")
    about: str = Field("", description="what a reader should know, in Markdown")
    config: Path = Field(description="config of all teams, relative to the study's file")
    changes: tuple[str, ...] = Field((), description="KEY=VALUE of all teams")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="seeds of training and evaluation")
    metric: Literal["success", "return", "length"] = Field(
        "success", description="the headline; of length, less is better"
    )
    actions: Literal["sampled", "greedy"] = Field(
        "sampled", description="which actions the headline is of; greedy: the likeliest, where a choice is no action"
    )
    share: int = Field(1, ge=1, description="what returns are divided by: agents, where they are told for each agent")
    most_bits: float | None = Field(
        None,
        gt=0,
        description="coded bits per agent step with which a bounded channel counts; by default none is judged",
    )
    teams: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="label -> KEY=VALUE; others stand beside those called continuous and silent"
    )
    same_as: dict[str, str] = Field(
        {},
        description="label -> STUDY/LABEL, the same training in another study, which trains it and whose results count",
    )
    afterwards: dict[str, Afterwards] = Field({}, description="label -> teams that are evaluated under changes")
    reach: dict[str, float] = Field({}, description="label -> what the mean over seeds is to reach")
    worst: dict[str, float] = Field({}, description="label -> what every seed is to reach")
    known: dict[str, float] = Field(
        {},
        description="label -> a value of the headline that a proof or a paper gives: a row of its own, a dotted line",
    )
    within: dict[str, float] = Field({}, description="label -> how much worse than with numbers the mean may be")
    numbers: dict[str, str] = Field(
        {}, description="label -> the team of the same recipe that sends numbers, by default `continuous`"
    )
    against: dict[str, tuple[str, ...]] = Field(
        {}, description="label -> whom it is compared with, besides who sends numbers and who is silent"
    )
    hull: Hull | None = Field(None, description="whose (`of`) upper hull over bits others stand `above`")
    tuning_seeds: tuple[int, ...] = Field((1000,), min_length=1, description="seeds that settings are chosen on")
    trials: dict[str, tuple[tuple[str, ...], ...]] = Field(
        {}, description="label -> lists of KEY=VALUE to choose from, equally many for all teams but `silent`"
    )

    @field_validator("trials")
    @classmethod
    def _equally_many(cls, trials: dict[str, Any]) -> dict[str, Any]:
        counts = {label: len(tried) for label, tried in trials.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"equally many trials for each team, these are {counts}")
        return trials

    @model_validator(mode="after")
    def _labels_and_seeds(self) -> StudySettings:
        labels = [*self.teams, *self.afterwards]
        files: dict[str, str] = {}
        for label in labels:
            other = files.setdefault(team_name(label, 0), label)
            if other != label:
                raise ValueError(f"{other!r} and {label!r} would share their files: wanted other letters and digits")
        for key, named, known in (
            ("reach", self.reach, labels),
            ("worst", self.worst, labels),
            ("within", self.within, labels),
            ("numbers", [*self.numbers, *self.numbers.values()], labels),
            ("against", [*self.against, *(other for others in self.against.values() for other in others)], labels),
            ("trials", self.trials, self.teams),
            ("same_as", self.same_as, self.teams),
            ("hull", [] if self.hull is None else [*self.hull.of, *self.hull.above], labels),
            ("afterwards", [one.of for one in self.afterwards.values()], self.teams),
        ):
            for label in named:
                if label not in known:
                    raise ValueError(f"{key}: no team {label!r}; {nearest(label, known)}")
        for label, one in self.afterwards.items():
            if one.of in self.same_as:
                raise ValueError(
                    f"afterwards.{label}: {one.of!r} is trained by {self.same_as[one.of]}: evaluate it there"
                )
        if self.trials and self.same_as:
            raise ValueError("same_as: a study with trials trains all its teams, by settings of its own choice")
        if self.hull is not None and self.metric == "length":
            raise ValueError("hull: wanted metric success or return, of which more is better")
        untried = self.teams.keys() - self.trials.keys() - {SILENT}
        if self.trials and untried:
            raise ValueError(
                f"trials: none of {', '.join(sorted(untried))}; wanted equally many for all teams but silent"
            )
        both = set(self.seeds) & set(self.tuning_seeds)
        if both:
            raise ValueError(f"tuning_seeds: {sorted(both)} are seeds of results too; choose others")
        return self

    @property
    def trained_here(self) -> list[str]:
        """Labels of the teams that no other study trains."""
        return [label for label in self.teams if label not in self.same_as]

    def trained(self, label: str) -> str:
        """The team whose training a label's results are of."""
        return self.afterwards[label].of if label in self.afterwards else label

    def numbers_of(self, label: str) -> str:
        """The team of the same recipe that sends numbers."""
        return self.numbers.get(label, CONTINUOUS)

    @property
    def group(self) -> str:
        """Of the figures that the headline is among (see `marlcomm.analysis.evaluation.evaluate_run`)."""
        return "greedy" if self.actions == "greedy" else "evaluation"

    def shared(self, value: float) -> float:
        """A headline figure as it is told: of returns, each agent's share."""
        return value / self.share if self.metric == "return" else value
