"""The text of `keywords.py` and `calls.py`, made of the schemas of the chaos types.

What a parameter takes is found out by asking its parser. `python -m tests.typing.keywords` writes
the modules anew.
"""

from __future__ import annotations

import re

from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.types import catalog
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.network import STATUS_PARAMETERS
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.chaos.types.schema import DELAY_NAMES
from pytest_resilience.chaos.types.schema import REQUEST_PARAMETERS
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import trigger_parameters


__all__ = ["MODULES", "annotation", "class_name", "expected", "line_of"]

MODULE = Path(catalog.__file__).with_name("keywords.py")

HEAD = '''"""What experiments take by keyword, for type checkers and editors.

And what `ChaosExperiment(...)` takes, by its chaos type. The last overload takes what no name says,
and the types of other plugins. It takes no parameter of a type, or a misspelt one would be taken
for that of another: parameters of another plugin's type are given as `**parameters`, of a
`dict[str, Any]`.

Written by `python -m tests.typing.keywords`, of the schemas of the chaos types: a test compares.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence
from os import PathLike
from typing import Any
from typing import Literal
from typing import TypedDict
from typing import Unpack
from typing import overload

from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.catalog import Kind


__all__ = [
{names}
]  # fmt: skip
'''

CALLS_HEAD = '''"""What takes a chaos type by name, with its parameters, for type checkers.

The last two overloads of each take what no name says. They take no parameter of a type, or a
misspelt one of a type that is known would be taken for that of another.

Written by `python -m tests.typing.keywords`, of the schemas of the chaos types: a test compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from typing import Protocol
from typing import TypeVar
from typing import Unpack
from typing import overload

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.types.catalog import ChaosType
{imports}


__all__ = [{names}]

_R_co = TypeVar("_R_co", covariant=True)

# fmt: off
'''

CONSTRUCTOR = '''

class ExperimentConstructor:
    """Takes the arguments of `ChaosExperiment`."""

    # fmt: off
'''
CONSTRUCTOR_END = '''
    # fmt: on
    def __init__(  # noqa: PLR0917  # the order is the public one
        self,
        name: str,
        chaos_type: Kind | str,
        probability: float | str = 0.1,
        duration: float | str = 60.0,
        intensity: float | str | None = None,
        target_services: Sequence[str] | str | None = None,
        enabled: bool = True,
        **parameters: Any,
    ) -> None:
        self._read(
            name,
            chaos_type,
            parameters,
            probability=probability,
            duration=duration,
            intensity=intensity,
            target_services=target_services,
            enabled=enabled,
        )

    @abstractmethod
    def _read(
        self, name: str, chaos_type: Kind | str, parameters: Mapping[str, Any], **common: Any
    ) -> None:
        """Check and keep what was given. Raises ConfigurationError."""


# Python's own errors name it: of an argument that is missing, say.
ExperimentConstructor.__init__.__qualname__ = "ChaosExperiment.__init__"
'''

# What stands for each type that a parameter may take. A text that is only a number is left out:
# it is for flags.
_SAMPLES: dict[str, tuple[Any, ...]] = {
    "bool": (True,),
    "float": (0.25, 0.5, 1.5),
    "int": (0, 1, 2, 503, 2**26),
    "str": (
        "200ms", "30%", "64KiB", "64MiB", "64kB", "1s..3s", "TimeoutError", "x-tenant: acme",
        "api.internal:443", "shop.Payments/*", "GET", "/v1/*", "SELECT *", "data/**", "text",
    ),
    "Sequence[str]": (["data/a", "data/b"], ["GET", "POST"], ["/v1/*"], ["a: b"], ["api:443"]),
    "PathLike[str]": (Path("data/a"),),
    "Mapping[str, str | float]": ({"x-tenant": "acme", "retry-after": 1},),
    "tuple[float | str, float | str]": ((0.5, "3s"),),
    "type[Exception]": (TimeoutError,),
}  # fmt: skip
_COVERS = {"float": {"int"}, "Mapping[str, str | float]": {"Sequence[str]"}}
_NO_WORD = "no such word"
_WIDTH = 90  # of a line of parameters, without its indent and the last comma

# Parameters that several types share, by the name of their class.
_GROUPS: dict[str, tuple[str, ...]] = {
    "Delays": DELAY_NAMES,
    "Requests": tuple(each.name for each in REQUEST_PARAMETERS),
    "Responses": tuple(each.name for each in STATUS_PARAMETERS),
    "Triggers": (*(each.name for each in trigger_parameters("1")), CHILDREN_PARAMETER.name),
}
_OF_ALL = {
    "name": "str",
    "intensity": "float | str",
    "probability": "float | str",
    "duration": "float | str",
    "enabled": "bool",
}


def annotation(parameter: Parameter) -> str:
    """What a parameter takes, as it is written."""
    words = _words(parameter)
    if words and _takes(parameter, "|".join(words[:2])):
        return "str"  # several of them
    if words:
        return f"Literal[{', '.join(map(_quoted, words))}]"
    found = [name for name, samples in _SAMPLES.items() if any(_accepted(parameter, samples))]
    covered = set[str]().union(*(_COVERS.get(each, set()) for each in found))
    kept = [each for each in found if each not in covered]
    return " | ".join(kept) or "object"


def _words(parameter: Parameter) -> list[str]:
    """The words among which it chooses; none where it takes any."""
    try:
        parameter.parse(parameter.name, _NO_WORD)
    except ConfigurationError as error:
        _, _, allowed = str(error).partition("give one of ")
        return re.findall(r"'([^']+)'", allowed)
    return []


def _accepted(parameter: Parameter, samples: Iterable[Any]) -> Iterator[bool]:
    for sample in samples:
        yield _takes(parameter, sample)


def _takes(parameter: Parameter, value: Any) -> bool:
    try:
        parameter.parse(parameter.name, value)
    except ConfigurationError:
        return False
    return True


def _quoted(word: str) -> str:
    return f'"{word}"'


def class_name(kind: ChaosType) -> str:
    """That of the class of a chaos type."""
    return "".join(word.title() for word in kind.value.split("_"))


def parameters_name(kind: ChaosType) -> str:
    """That of the class of what this chaos type takes, and not every one."""
    return f"{class_name(kind)}Parameters"


def line_of(parameter: Parameter) -> str:
    """The line of one parameter, wrapped."""
    text = f"    {parameter.name}: {annotation(parameter)}"
    if len(text) <= 100:
        return text
    head, words = text.removesuffix("]").split("[", 1)
    return "\n".join([f"{head}[", *(f"        {each}," for each in words.split(", ")), "    ]"])


def _class(name: str, bases: Iterable[str], text: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    head = f"class {name}({', '.join(bases)}, total=False):"
    return f'\n\n{head}\n    """{text}"""\n' + (f"\n{body}\n" if body else "")


def _groups_of(schema: TypeSchema) -> list[str]:
    names = {each.name for each in schema.parameters}
    return [group for group, those in _GROUPS.items() if names.issuperset(those)]


def _shared(group: str) -> list[Parameter]:
    """The parameters of a group, as every type that has them has them."""
    by_name: dict[str, Parameter] = {}
    for schema in SCHEMAS.values():
        if group in _groups_of(schema):
            for each in schema.parameters:
                if each.name in _GROUPS[group]:
                    before = by_name.setdefault(each.name, each)
                    assert annotation(before) == annotation(each), each.name
    return list(by_name.values())


def expected() -> str:
    """The whole text of the module."""
    kinds = [kind for kind in ChaosType if kind in SCHEMAS]
    own = map(parameters_name, kinds)
    names = [*_GROUPS, "ExperimentConstructor", "Experiments", *map(class_name, kinds), *own]
    parts = [HEAD.replace("{names}", _wrapped(sorted(names)))]
    common = [f"    {name}: {what}" for name, what in _OF_ALL.items()]
    parts.append(_class("Experiments", ["TypedDict"], "What every chaos type takes.", common))
    parts += [
        _class(group, ["TypedDict"], _MEANINGS[group], map(line_of, _shared(group)))
        for group in _GROUPS
    ]
    for kind in kinds:
        schema = SCHEMAS[kind]
        groups = _groups_of(schema)
        shared = {name for group in groups for name in _GROUPS[group]}
        lines = (line_of(each) for each in schema.parameters if each.name not in shared)
        own_class = parameters_name(kind)
        parts.append(_class(own_class, groups or ["TypedDict"], _OWN.format(kind.value), lines))
        summary = schema.summary[0].upper() + schema.summary[1:] + "."
        parts.append(_class(class_name(kind), [own_class, "Experiments"], summary, []))
    return "".join([*parts, *_constructor_of(kinds)])


def expected_calls() -> str:
    """The whole text of the module of calls."""
    used = sorted({"Experiments", *(class_name(kind) for each in _CALLS for kind in each.kinds)})
    line = "from pytest_resilience.chaos.types.keywords import "
    head = CALLS_HEAD.format(
        imports="\n".join(line + each for each in used),
        names=", ".join(_quoted(each.name) for each in _CALLS),
    )
    return head + "".join(map(_protocol, _CALLS))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What takes an experiment, or a type by its name with the parameters of that type.

    Attributes:
        name: of its class.
        summary: the docstring of it.
        switches: keywords that it has besides.
        kinds: the types that it takes.
    """

    name: str
    summary: str
    switches: tuple[str, ...] = ()
    kinds: tuple[ChaosType, ...] = tuple(kind for kind in ChaosType if kind in SCHEMAS)


_STREAM = 'stream: Literal["upstream", "downstream", "both"] | None = ...'
_CALLS = (
    _Call(name="Inject", summary="`Chaos.inject`."),
    _Call(
        name="InjectIntoProxy",
        summary="`ChaosProxy.inject`; a text may be a whole experiment, as flags take it.",
        kinds=(
            ChaosType.NETWORK_LATENCY, ChaosType.NETWORK_FAILURE, ChaosType.SERVICE_FAILURE,
        ),
    ),
    _Call(
        name="MarkChaos",
        summary="`@pytest.mark.chaos`.",
        switches=("include_setup: bool = ...",),
    ),
)  # fmt: skip


def _protocol(call: _Call) -> str:
    """A class whose call is overloaded by the type's name."""
    switches = ["must_fire: bool = ...", *call.switches]
    overloads = []
    for kind in call.kinds:
        own = ["target_services: str | Sequence[str]"] if kind is ChaosType.SERVICE_FAILURE else []
        which = f'Literal["{kind.value}", ChaosType.{kind.name}]'
        rest = f"**parameters: Unpack[{class_name(kind)}]"
        overloads.append(_overload(which, [*own, *switches, rest]))
    streams = [_STREAM] if call.name == "InjectIntoProxy" else []
    overloads.append(_overload("ChaosExperiment", [*streams, *switches]))
    rest = "**parameters: Unpack[Experiments]"
    overloads.append(_overload("str", [*streams, *switches, rest]))
    head = f"class {call.name}(Protocol[_R_co]):"
    return f'\n\n{head}\n    """{call.summary}"""\n' + "".join(overloads)


def _overload(experiment: str, keywords: Iterable[str]) -> str:
    body = _filled(["self", f"experiment: {experiment}", "*", *keywords])
    return f"\n    @overload\n    def __call__(\n{body}    ) -> _R_co: ...\n"


def _filled(parameters: Iterable[str]) -> str:
    """The lines of a function's parameters, as many in each as there is room for."""
    lines = [""]
    for each in parameters:
        if len(lines[-1]) + len(each) > _WIDTH:
            lines.append("")
        lines[-1] += f" {each},"
    return "".join(f"       {line}\n" for line in lines)


def _constructor_of(kinds: Iterable[ChaosType]) -> Iterator[str]:
    """The parts of the class that is the constructor of `ChaosExperiment`."""
    yield CONSTRUCTOR
    for kind in kinds:
        which = f'Literal["{kind.value}", ChaosType.{kind.name}]'
        yield _constructor(which, f"**parameters: Unpack[{parameters_name(kind)}]")
    yield _constructor("Kind | str")
    yield CONSTRUCTOR_END


def _constructor(kind: str, *more: str) -> str:
    lines = ["self", "name: str", f"chaos_type: {kind}"]
    lines += [f"{name}: {what} = ..." for name, what in _IN_ORDER.items()]
    body = _filled([*lines, *more])
    return f"\n    @overload\n    def __init__(\n{body}    ) -> None: ...\n"


_IN_ORDER = {
    "probability": "float | str",
    "duration": "float | str",
    "intensity": "float | str | None",
    "target_services": "Sequence[str] | str | None",
    "enabled": "bool",
}
_OWN = "What `{}` takes, and not every type."
_MEANINGS = {
    "Delays": "How long a delay is.",
    "Requests": "Which requests are meant.",
    "Responses": "The response that is injected.",
    "Triggers": "Which of the operations are hit, and in which processes.",
}


def _wrapped(names: Iterable[str]) -> str:
    lines, line = [], "   "
    for name in names:
        word = f' "{name}",'
        if len(line + word) > 100:
            lines.append(line)
            line = "   "
        line += word
    return "\n".join([*lines, line])


MODULES = {
    MODULE: expected,
    MODULE.with_name("calls.py"): expected_calls,
}

if __name__ == "__main__":
    for path, text in MODULES.items():
        path.write_text(text(), encoding="utf-8")
