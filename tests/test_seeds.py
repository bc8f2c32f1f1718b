from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys

import pytest

from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import seeds
from pytest_resilience.seeds import Stream
from pytest_resilience.seeds import derive


numbers = st.integers(min_value=0, max_value=2**64 - 1)
steps = st.one_of(st.text(max_size=20), st.integers(min_value=-(2**70), max_value=2**70))
paths = st.lists(steps, max_size=4).map(tuple)


def test_a_derived_seed_is_the_same_everywhere_and_for_ever() -> None:
    # Changing these changes the faults of everybody's saved seeds.
    assert derive(0) == 5769824443010619093
    assert derive(42, "tests/test_a.py::test_b[é]", "network_latency", 1) == 11027489689085967029
    assert [Stream(7).draw(index) for index in range(3)] == [
        0.33903183645312895,
        0.5023755279251395,
        0.38198917597208604,
    ]


def test_neither_hashing_nor_the_process_matters() -> None:
    code = "from pytest_resilience.seeds import derive; print(derive(1, 'a', 2))"
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert shown == {f"{derive(1, 'a', 2)}\n"}


@given(seed=numbers, path=paths)
def test_a_derived_seed_repeats_and_has_64_bits(seed: int, path: tuple[str | int, ...]) -> None:
    assert derive(seed, *path) == derive(seed, *path)
    assert 0 <= derive(seed, *path) < 2**64


@given(one=st.tuples(numbers, paths), other=st.tuples(numbers, paths))
@example(one=(1, ("ab", "c")), other=(1, ("a", "bc")))
@example(one=(1, ("1",)), other=(1, (1,)))
@example(one=(1, (2,)), other=(12, ()))
@example(one=(1, ()), other=(1, ("",)))
def test_different_places_have_different_seeds(
    one: tuple[int, tuple[str | int, ...]], other: tuple[int, tuple[str | int, ...]]
) -> None:
    same = one == other
    assert (derive(one[0], *one[1]) == derive(other[0], *other[1])) is same


@given(seed=numbers, indices=st.lists(st.integers(min_value=0, max_value=2**40), min_size=1))
def test_a_draw_depends_on_its_index_alone(seed: int, indices: list[int]) -> None:
    stream = Stream(seed)
    in_order = {index: stream.draw(index) for index in sorted(indices)}
    assert [stream.draw(index) for index in indices] == [in_order[index] for index in indices]
    assert all(0 <= draw < 1 for draw in in_order.values())


def test_draws_are_uniform_and_independent() -> None:
    draws = [Stream.at(3, "a test").draw(index) for index in range(20_000)]
    deciles = [sum(tenth <= draw * 10 < tenth + 1 for draw in draws) for tenth in range(10)]
    # Binomial(20000, 1/10): 5 standard deviations are 212. A fixed seed: no luck involved.
    assert all(abs(count - 2_000) < 212 for count in deciles)
    neighbours = statistics.correlation(draws[:-1], draws[1:])
    assert abs(neighbours) < 5 / len(draws) ** 0.5


@given(seed=numbers, path=paths)
def test_a_stream_starts_the_standard_librarys_generator(
    seed: int, path: tuple[str | int, ...]
) -> None:
    one, other = Stream.at(seed, *path).random(), Stream(derive(seed, *path)).random()
    assert list(itertools.islice(iter(one.random, None), 3)) == [other.random() for _ in range(3)]


def test_a_new_seed_can_be_typed_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = {seeds.new_seed() for _ in range(100)}
    assert all(0 <= seed < 2**seeds.SEED_BITS for seed in fresh)
    assert len(str(2**seeds.SEED_BITS - 1)) <= 10
    assert len(fresh) > 90
    # Chance of its own: a test that seeds `random` must not choose our seed.
    monkeypatch.setattr("random.random", None)
    monkeypatch.setattr("random.getrandbits", None)
    seeds.new_seed()
