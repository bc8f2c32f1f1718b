"""What a Python process runs first that a test with chaos has started: PYTHONPATH leads here.

It asks the test's process what is active (interceptors/children/folder.py). Where nothing is, or
nobody answers, it does nothing more. Then it runs the `sitecustomize` that would have been run, if
there is one. Any Python may come by here: what it cannot do must not disturb that.
"""

import os
import sys


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _LazyMirror:
    """A mirror that is loaded, with most of the package, when there is something to do."""

    def __init__(self, member: "Any") -> None:
        self._member = member
        self._mirror = None  # type: Any

    def update(self, experiments: "list[tuple[int, bytes]]") -> None:
        if self._mirror is None and experiments:
            from pytest_resilience.interceptors.children.child import follow

            self._mirror = follow(self._member)
        if self._mirror is not None:
            self._mirror.update(experiments)

    def after_fork(self) -> None:
        if self._mirror is not None:
            self._mirror.after_fork()


def _join() -> None:
    """Do as the parent does, from now on. Raises whatever goes wrong."""
    folder, _, number = os.environ.get("PYTEST_RESILIENCE_CHILD", "").rpartition(":")
    if folder and os.path.isdir(folder):
        _load_package()
        from pytest_resilience.interceptors.children.folder import Member

        member = Member(folder, number)
        member.go_on(_LazyMirror(member))


def _load_package() -> None:
    """Have the package of the parent, wherever it is, and nothing else of what is beside it."""
    import importlib.util

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location(
        "pytest_resilience",
        os.path.join(package, "__init__.py"),
        submodule_search_locations=[package],
    )
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["pytest_resilience"] = module
        spec.loader.exec_module(module)
        # Where pytest is the child it would warn that it has come too late to rewrite this.
        module.__doc__ = f"{module.__doc__}\n\nPYTEST_DONT_REWRITE"


def _run_the_other() -> None:
    """Import the `sitecustomize` that is further down the path, in the place of this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [each for each in sys.path if os.path.abspath(each) != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401  # the other one
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


if __name__ == "sitecustomize":
    try:
        _join()
    except Exception:  # the parent has gone, or this Python is an old one
        for name in [each for each in sys.modules if each.startswith("pytest_resilience")]:
            del sys.modules[name]
    _run_the_other()
