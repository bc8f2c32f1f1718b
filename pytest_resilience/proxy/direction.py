"""One direction of a connection: from one transport, through filters, to the other.

Each filter, one of the experiments and one of each toxic, passes on to the next what is due:

    source --write--> ExperimentFilter --write--> ToxicFilter --write--> ... --write--> target

While no experiment runs and there is no toxic, the source's bytes go to the target as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_resilience.proxy.toxic_filters import ToxicFilter
from pytest_resilience.proxy.toxic_filters import make_filter
from pytest_resilience.proxy.toxics import REFUSE
from pytest_resilience.proxy.toxics import Toxic
from pytest_resilience.proxy.traffic_filter import ConnectionContext
from pytest_resilience.proxy.traffic_filter import ExperimentFilter
from pytest_resilience.proxy.traffic_filter import Sink
from pytest_resilience.proxy.transport import Transport
from pytest_resilience.seeds import Stream


__all__ = ["Direction", "is_hit"]

_MOST_HELD = 4 * 2**20  # bytes that filters hold back before the sender is held up
_MOST_UNSENT = 2**18  # bytes that wait for a slow reader before the sender is held up


def is_hit(toxic: Toxic, seed: int, connection: int) -> bool:
    """Decide, by its toxicity, if a toxic happens to the connection of a number."""
    # A draw of its own for each: neither another toxic nor another connection moves it.
    return Stream.at(seed, "toxicity", toxic.name, connection).draw(0) < toxic.toxicity


class Direction:
    """See the module.

    Attributes:
        stream: "upstream" or "downstream".
        source, target: its transports.
        experiments: the first filter.
        ended: whether the source sends no more.
        closes: whether the EOF that is on its way closes the whole connection.
        broken: whether the source was reset, for real or by an experiment.
        replaced: whether the source is ignored: a response has been injected in its place.
    """

    def __init__(
        self, connection: ConnectionContext, stream: str, source: Transport, target: Transport
    ) -> None:
        self.source = source
        self.target = target
        self.ended = False
        self.closes = False
        self.broken = False
        self.replaced = False
        self.connection = connection
        self.stream = stream
        self._toxics: dict[str, tuple[Toxic, ToxicFilter]] = {}
        self.experiments = ExperimentFilter(self, target)

    def close_after_eof(self) -> None:
        self.closes = True
        self.source.pause_reading()

    def reset_after_eof(self) -> None:
        self.broken = True
        self.close_after_eof()

    def replace_source(self) -> None:
        self.ended = self.replaced = True
        self.source.resume_reading()  # its data is ignored, but not that it goes away

    def write(self, data: memoryview) -> None:
        """Bytes from the source; the view is good for this call only."""
        if not self.experiments.is_open:
            self.experiments.begin()
            self.experiments.write(bytes(data))
        else:
            self.connection.message_passed(self.stream)
            if self._toxics:
                self.experiments.following.write(bytes(data))
            else:
                # What all traffic takes most of the time: no copy, and no call that can be saved.
                self.target.write(data)
                if not self.target.unsent:
                    return
        self.update_reading()

    def write_eof(self) -> None:
        """The source sends no more."""
        self.ended = True
        (self.experiments.following if self.experiments.is_open else self.experiments).write_eof()

    def update_reading(self) -> None:
        """Read on if there is room for more, else hold the sender up."""
        if self.closes or self.ended:
            return
        held = self.experiments.held + sum(each.held for _, each in self._toxics.values())
        if held < _MOST_HELD and self.target.unsent < _MOST_UNSENT:
            self.source.resume_reading()
        else:
            self.source.pause_reading()

    def set_toxics(self, toxics: Sequence[Toxic]) -> None:
        """Have a filter for each toxic that happens to this direction here, and no other."""
        if self.closes:
            return
        seed, number = self.connection.seed, self.connection.number
        # A refusal happens to a connect: see the TCP forwarder.
        here = (each for each in toxics if each.stream == self.stream and each.type != REFUSE)
        mine = [each for each in here if is_hit(each, seed, number)]
        names = {toxic.name for toxic in mine}
        for name in [name for name in self._toxics if name not in names]:
            self._toxics[name][1].remove()  # what follows is still there to take what it holds
            del self._toxics[name]
        if not self.connection.is_open:
            return  # one of them left nothing that could go on
        new = [self._filter_of(toxic) for toxic in mine]
        self._join()
        for each in filter(None, new):
            each.start()
        self.update_reading()

    def _filter_of(self, toxic: Toxic) -> ToxicFilter | None:
        """A new filter for a toxic that has none yet; None after changing the one that it has."""
        known, found = self._toxics.get(toxic.name, (None, None))
        if found is None:
            chance = Stream.at(self.connection.seed, "toxic", toxic.name, self.connection.number)
            found = make_filter(toxic.type, self, toxic.attributes, chance.random(), self.target)
            self._toxics[toxic.name] = (toxic, found)
            return found
        if known != toxic:
            self._toxics[toxic.name] = (toxic, found)
            found.change(toxic.attributes)
        return None

    def _join(self) -> None:
        """Let each filter pass on to the next."""
        following: Sink = self.target
        for _, each in reversed(self._toxics.values()):
            each.following = following
            following = each
        self.experiments.following = following

    def client_gone(self) -> None:
        """The client sends no more."""
        for _, each in list(self._toxics.values()):
            each.client_gone()

    def stop(self) -> None:
        """Forget what was to happen."""
        self.experiments.stop()
        for _, each in self._toxics.values():
            each.stop()
