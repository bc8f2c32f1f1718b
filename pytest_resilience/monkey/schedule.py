"""When a monkey starts which of its experiments.

A schedule names moments, in seconds since the monkey was started, and for each of them
chooses experiments. All chance in it is drawn from the monkey's seed, the experiment's name
and the moment's number, so neither the machine's speed nor other experiments change it.
"""

from __future__ import annotations

import itertools
import math

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from datetime import time
from datetime import tzinfo
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.quantities import interval as parse_interval
from pytest_resilience.chaos.parsing.quantities import period
from pytest_resilience.chaos.parsing.quantities import seconds
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.seeds import Stream


__all__ = ["ByChance", "Daily", "FixedSequence", "Moment", "Schedule", "Windows"]

_EVERY_DAY = frozenset(range(7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point in time at which something is to be decided.

    Attributes:
        numbers: of the moments that have come since the last decision, usually one; more
            when the machine was asleep or busy.
        elapsed: seconds since the monkey was started.
        time: seconds since 1970-01-01 UTC.
        seed: of the monkey's run.
    """

    numbers: range
    elapsed: float
    time: float
    seed: int


class Schedule(Protocol):
    """See the module."""

    def check(self, names: Sequence[str]) -> None:  # noqa: ARG002  # for those that name some
        """Raise UnknownNameError for an experiment it needs and that is not among `names`."""
        return

    def moments(self, interval: float) -> Iterator[float]:
        """When to decide, ascending, in seconds; `interval` is the monkey's."""

    def choose(
        self, experiments: Sequence[ChaosExperiment], moment: Moment
    ) -> list[ChaosExperiment]:
        """The experiments to start, in order, should there not be room for all."""

    def allowed(self, moment: Moment) -> float:  # noqa: ARG002  # for those that limit it
        """For how many seconds what starts now may run; 0 if nothing may."""
        return math.inf


@dataclass(frozen=True, slots=True)
class ByChance(Schedule):
    """At each tick, each experiment with its own probability.

    Ticks that were missed are not made up for: chaos never comes in a burst.
    """

    def moments(self, interval: float) -> Iterator[float]:
        return (number * interval for number in itertools.count())

    def choose(
        self, experiments: Sequence[ChaosExperiment], moment: Moment
    ) -> list[ChaosExperiment]:
        number = moment.numbers[-1]
        chosen = []
        for place, experiment in enumerate(experiments):
            draw = Stream.at(moment.seed, "start", experiment.name).draw(number)
            if draw < experiment.probability:
                # Among the chosen this is uniform, so nobody is always held back.
                chosen.append((draw / experiment.probability, place, experiment))
        return [experiment for _, _, experiment in sorted(chosen, key=lambda each: each[:2])]


class FixedSequence(Schedule):
    """Named experiments at fixed times, whatever their probability.

    Raises ConfigurationError for steps that cannot be followed.

    Examples:
        >>> FixedSequence([("0s", "slow"), ("30s", "gone")], every="60s")
        FixedSequence([(0.0, 'slow'), (30.0, 'gone')], every=60.0)
    """

    def __init__(
        self, steps: Iterable[tuple[float | str, str]], *, every: float | str | None = None
    ) -> None:
        """`steps`: seconds since the start, and whom to start; `every`: begin again after."""
        self.steps = sorted((seconds("at", at), name) for at, name in steps)
        self.every = None if every is None else period("every", every)
        if not self.steps:
            raise ConfigurationError("a fixed sequence needs steps, such as [('0s', 'slow')]")
        if self.every is not None and not self.steps[-1][0] < self.every:
            raise ConfigurationError(
                f"every={every!r}: it begins again before its last step, at "
                f"{self.steps[-1][0]:g} s; give more than that"
            )

    def check(self, names: Sequence[str]) -> None:
        for _, name in self.steps:
            if name not in names:
                raise UnknownNameError("chaos experiment", name, tuple(names))

    def moments(self, interval: float) -> Iterator[float]:  # noqa: ARG002
        rounds = itertools.count() if self.every else range(1)
        return (at + number * (self.every or 0.0) for number in rounds for at, _ in self.steps)

    def choose(
        self, experiments: Sequence[ChaosExperiment], moment: Moment
    ) -> list[ChaosExperiment]:
        by_name = {experiment.name: experiment for experiment in experiments}
        wanted = dict.fromkeys(
            self.steps[number % len(self.steps)][1]
            for number in moment.numbers[-len(self.steps) :]  # each step once, however late
        )
        return [by_name[name] for name in wanted if name in by_name]

    def __repr__(self) -> str:
        return f"FixedSequence({self.steps!r}, every={self.every!r})"


class _Limited(Schedule):
    """Base of those that let another schedule start something at certain times only."""

    def __init__(self, schedule: Schedule | None) -> None:
        self.schedule = schedule or ByChance()

    def check(self, names: Sequence[str]) -> None:
        self.schedule.check(names)

    def moments(self, interval: float) -> Iterator[float]:
        return self.schedule.moments(interval)

    def choose(
        self, experiments: Sequence[ChaosExperiment], moment: Moment
    ) -> list[ChaosExperiment]:
        return self.schedule.choose(experiments, moment)


class Windows(_Limited):
    """Another schedule, but only in windows: what runs when one closes is ended.

    Raises ConfigurationError for windows that never open.

    Examples:
        >>> Windows(["10s..20s"], every="1m").every
        60.0
    """

    def __init__(
        self,
        windows: Iterable[str | tuple[float | str, float | str]],
        *,
        every: float | str | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """`windows`: seconds since the start; `every`: after which they come again."""
        super().__init__(schedule)
        self.windows = [parse_interval("window", window) for window in windows]
        self.every = None if every is None else period("every", every)
        if not self.windows:
            raise ConfigurationError("no windows are given; e.g. ['10s..20s']")
        last = max(end for _, end in self.windows)
        if self.every is not None and self.every < last:
            raise ConfigurationError(
                f"every={every!r}: the windows come again before the last has closed, at "
                f"{last:g} s; give that or more"
            )

    def allowed(self, moment: Moment) -> float:
        at = moment.elapsed % self.every if self.every else moment.elapsed
        left = max((end - at for start, end in self.windows if start <= at < end), default=0.0)
        return min(left, self.schedule.allowed(moment))


class Daily(_Limited):
    """Another schedule, but only at certain hours of certain days, such as office hours.

    Raises ConfigurationError for hours that are none.

    Examples:
        >>> Daily("09:00..17:00", days=range(5)).hours[0]
        datetime.time(9, 0)
    """

    def __init__(
        self,
        hours: str,
        *,
        days: Iterable[int] = _EVERY_DAY,
        zone: tzinfo | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """`days`: 0 is Monday; `zone`: of the hours, by default the machine's."""
        super().__init__(schedule)
        self.hours = _hours(hours)
        self.days = frozenset(days)
        self.zone = zone
        if not self.days or not self.days <= _EVERY_DAY:
            raise ConfigurationError(f"days={sorted(self.days)}: give some of 0 (Monday) to 6")

    def allowed(self, moment: Moment) -> float:
        now = datetime.fromtimestamp(moment.time, tz=self.zone).astimezone(self.zone)
        start, end = self.hours
        if now.weekday() not in self.days or not start <= now.time() < end:
            return 0.0
        # Of the day's own offset: a day of daylight saving has 23 or 25 hours.
        closes = datetime.combine(now.date(), end, tzinfo=self.zone).timestamp()
        return min(closes - moment.time, self.schedule.allowed(moment))


def _hours(value: Any) -> tuple[time, time]:
    try:
        start, end = map(time.fromisoformat, str(value).split(".."))
    except ValueError:
        raise ConfigurationError(
            f"hours={shortened(value)}: give the first and the last time of day, such as "
            "'09:00..17:00'"
        ) from None
    if not start < end:
        raise ConfigurationError(
            f"hours={shortened(value)}: the end must come after the start; give the earlier first, "
            "and a window past midnight as two of them"
        )
    return start, end
