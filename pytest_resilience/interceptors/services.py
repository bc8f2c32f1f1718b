"""The interceptor of services: callables of the code under test that stand for them.

A callable is replaced where its name says it is. Code that has taken it from there under a
name of its own (`from shop.clients import check`) is reached by naming that place.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import pkgutil

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.events import describe
from pytest_resilience.patching import ImportHook
from pytest_resilience.patching import Patches


__all__ = ["ServiceInterceptor"]


class ServiceInterceptor:
    """Intercepts calls of services that experiments name. See `chaos.engine.Interceptor`."""

    kinds = frozenset({CALL})

    def __init__(self, engine: Engine, *, imports: bool = True) -> None:
        """`imports`: whether to import the modules that have callables, or to wait until they are.

        In a child that begins they may not be found yet, and may not be wanted.
        """
        self._engine = engine
        self._imports = imports
        self._patches = Patches()
        self._replaced: set[str] = set()
        self._hooks: list[ImportHook] = []

    @classmethod
    def of_child(cls, engine: Engine) -> ServiceInterceptor:
        """One that imports nothing."""
        return cls(engine, imports=False)

    def install(self) -> None:
        """Replace what is not replaced yet. Raises ConfigurationError for what is not there."""
        for active_experiment in self._engine.active:
            for service in active_experiment.experiment.services:
                self._replace_all(service)
        recorder = self._engine.recorder
        if recorder is not None:
            for service in recorder.services:
                try:
                    self._replace_all(service)
                except ConfigurationError:  # an experiment that needs it will raise that
                    recorder.assume_called(service.name)

    def refresh(self) -> None:
        """Nothing to do: `install` is called at every change."""

    def remove(self) -> bool:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._patches.restore()
        self._replaced.clear()
        return bool(self._patches)

    def _replace_all(self, service: Service) -> None:
        for place in service.callables:
            if place in self._replaced:
                continue
            if self._imports:
                self._replace(service, place)
            else:
                self._replaced.add(place)
                replace = functools.partial(self._replace_if_there, service, place)
                hook = ImportHook({place.partition(":")[0]: replace})
                self._hooks.append(hook)
                hook.install()

    def _replace_if_there(self, service: Service, place: str) -> None:
        with contextlib.suppress(ConfigurationError):
            self._replace(service, place)

    def _replace(self, service: Service, place: str) -> None:
        owner, name = _find(service, place)
        self._replaced.add(place)
        self._patches.replace(
            owner, name, functools.partial(self._replacement, owner, name, service.name), mocks=True
        )

    def _replacement(self, owner: Any, name: str, service: str, original: Any) -> Any:
        """`original`, with faults, bound in a class as before."""
        found = inspect.getattr_static(owner, name)
        if isinstance(found, (staticmethod, classmethod)):
            return type(found)(self._with_faults(service, found.__func__))
        if isinstance(owner, type) and not hasattr(type(found), "__get__"):
            # A mock, say: it is given no self.
            return staticmethod(self._with_faults(service, original))
        return self._with_faults(service, original)

    def _with_faults(self, service: str, original: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                self._decide(service)
                return await original(*args, **kwargs)

            return awaited

        @functools.wraps(original)
        def called(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            self._decide(service)
            return original(*args, **kwargs)

        return called

    def _decide(self, service: str) -> None:
        __tracebackhide__ = True
        effect = self._engine.decide(Operation(kind=CALL, target=service, names=(service,)))
        error = None if effect is None else effect.error(service)
        if error is not None:
            raise error


def _find(service: Service, place: str) -> tuple[Any, str]:
    """The module or class that has it, and its name there. Raises ConfigurationError."""
    module, _, path = place.partition(":")
    above, _, name = path.rpartition(".")
    try:
        owner = pkgutil.resolve_name(f"{module}:{above}" if above else module)
        found = getattr(owner, name)
    except Exception as error:  # what is imported runs
        raise ConfigurationError(
            f"service {service.name}: no {place}: {describe(error)}; write module:function or "
            "module:Class.method"
        ) from error
    if not callable(found):
        raise ConfigurationError(
            f"service {service.name}: {place} is {found!r}, and not callable; name a function, a "
            "method or a class"
        )
    return owner, name
