"""What the fixtures take by keyword is what the schemas and configurations have."""

from __future__ import annotations

import dataclasses
import difflib
import inspect

from pathlib import Path
from typing import Any
from typing import get_type_hints

import pytest

from pytest_resilience import Chaos
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import RetryConfig
from pytest_resilience.chaos.types import keywords
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.plugin.fixtures.patterns import BreakerFields
from pytest_resilience.plugin.fixtures.patterns import RetryFields
from tests.typing.keywords import MODULES
from tests.typing.keywords import annotation
from tests.typing.keywords import class_name


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_the_keywords_are_those_of_the_schemas(module: Path) -> None:
    there, wanted = module.read_text(encoding="utf-8"), MODULES[module]()
    lines = difflib.unified_diff(
        there.splitlines(), wanted.splitlines(), str(module), "what it should say", lineterm=""
    )
    told = "\n".join(lines)
    assert not told, f"write it with `python -m tests.typing.keywords`, which does this:\n{told}"


METHOD = '''    def {name}(
        self, *, must_fire: bool = True, **parameters: Unpack[{keywords}]
    ) -> _Context:
        """{summary}."""
        return self.inject(ChaosType.{constant}, must_fire=must_fire, **parameters)
'''


@pytest.mark.parametrize("kind", ChaosType, ids=lambda kind: kind.value)
def test_each_chaos_type_has_its_method(kind: ChaosType) -> None:
    text = METHOD.format(
        name=kind.value,
        keywords=class_name(kind),
        summary=SCHEMAS[kind].summary.capitalize(),
        constant=kind.name,
    )
    advice = f"write this into `Chaos`, in plugin/fixtures/chaos.py:\n{text}"
    method = getattr(Chaos, kind.value, None)
    assert method is not None, advice
    parameters = inspect.signature(method).parameters
    given = [
        each.annotation
        for each in parameters.values()
        if each.kind is inspect.Parameter.VAR_KEYWORD
    ]
    assert given == [f"Unpack[{class_name(kind)}]"], advice
    assert parameters["must_fire"].default is True, advice
    assert f"ChaosType.{kind.name}" in inspect.getsource(method), advice


@pytest.mark.parametrize("kind", ChaosType, ids=lambda kind: kind.value)
def test_each_keyword_is_a_parameter(kind: ChaosType) -> None:
    known = {each.name for each in SCHEMAS[kind].parameters}
    own = get_type_hints(getattr(keywords, class_name(kind))).keys()
    assert own - get_type_hints(keywords.Experiments).keys() == known


def every_parameter() -> list[Any]:
    return [
        pytest.param(each, id=f"{kind.value}-{each.name}")
        for kind in ChaosType
        for each in SCHEMAS[kind].parameters
    ]


@pytest.mark.parametrize("parameter", every_parameter())
def test_what_each_parameter_takes_is_known(parameter: Parameter) -> None:
    assert annotation(parameter) != "object", (
        f"no sample of tests/typing/keywords.py is one that {parameter.name!r} takes: add one"
    )


@pytest.mark.parametrize(
    ("fields", "config"), [(BreakerFields, CircuitBreakerConfig), (RetryFields, RetryConfig)]
)
def test_the_fields_are_those_of_the_configuration(fields: type, config: Any) -> None:
    has = {
        each.name: str(each.type).replace("validation.", "") for each in dataclasses.fields(config)
    }
    written = {name: given.__forward_arg__ for name, given in fields.__annotations__.items()}
    assert written == has
