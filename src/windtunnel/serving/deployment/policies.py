"""A user's own policy: ``module:Class`` loaded, checked, and every mistake in it one clear line."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.text import shown


def load_policy(text: str, what: str, methods: Sequence[str]) -> Any:
    """A policy object made from ``"my_module:MyRouter"`` without arguments.

    ``what``: its kind, for errors ("router", "scheduler", "eviction policy"). ``methods``: those that it must have.
    Modules of the current directory are found. Whatever the object raises later, in one of these methods, comes out
    as a ScenarioError that says where; its other attributes can be read as if it were not wrapped.

    Raises:
        ScenarioError: no such module or class, an error when it is imported or made, arguments needed, or a method
            that it lacks.
    """
    return load_policies(text, what, methods)()


def load_policies(text: str, what: str, methods: Sequence[str]) -> Callable[[], Any]:
    """As :func:`load_policy`, for a kind of which several objects are made (an eviction policy for each tier)."""
    name = f"{what} {shown(text)}"
    module_name, _, class_name = text.partition(":")
    if not class_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ScenarioError(f"{name} is not understood; accepted: module:Class")
    with _here():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
                raise ScenarioError(
                    f"{name}: there is no module {error.name} in the current directory or among the installed ones"
                ) from None
            raise _raised(name, f"importing {module_name}", error) from None
        except (Exception, SystemExit) as error:
            raise _raised(name, f"importing {module_name}", error) from None
    found = getattr(module, class_name, None)
    if found is None:
        classes = [n for n, value in vars(module).items() if inspect.isclass(value)]
        raise unknown(f"class in {name}:", class_name, classes or ["none"])
    if not callable(found):
        raise ScenarioError(f"{name}: {class_name} is {_article(found)} and not a class")

    def make() -> Any:
        with _here():
            return _made(found, name, what, methods)

    return make


def _made(found: Callable[[], Any], name: str, what: str, methods: Sequence[str]) -> Any:
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise ScenarioError(f"{name} must be made without arguments; its constructor has {error}") from None
    except ValueError:
        pass  # no signature to look at (a class written in C): making it will tell
    try:
        policy = found()
    except (Exception, SystemExit) as error:
        raise _raised(name, "making it", error) from None
    for method in methods:
        if not callable(getattr(policy, method, None)):
            raise ScenarioError(f"{name} lacks the method {method}; a {what} has {', '.join(methods)}")
    return _Guarded(policy, name, methods)


class _Guarded:
    """A user's object; what its ``methods`` raise becomes a ScenarioError."""

    def __init__(self, policy: Any, name: str, methods: Sequence[str]) -> None:
        self._policy = policy
        for method in methods:
            setattr(self, method, _guarded(getattr(policy, method), method, name))

    def __getattr__(self, attribute: str) -> Any:
        return getattr(object.__getattribute__(self, "_policy"), attribute)


def _guarded(method: Callable[..., Any], doing: str, name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except ScenarioError:
            raise
        except (Exception, SystemExit) as error:
            raise _raised(name, doing, error) from None

    return call


def _raised(name: str, doing: str, error: BaseException) -> ScenarioError:
    try:
        message = " ".join(str(error).split())
    except Exception:  # an exception of the user's that cannot even be printed
        message = ""
    told = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return ScenarioError(f"{name}: {doing} raised {told[:200]}{_line(error)}")


def _line(error: BaseException) -> str:
    """Where in a file the error was raised, as far as it is known: its last place."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_code.co_filename.startswith("<"):
        return ""
    return f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})"


def _article(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


@contextmanager
def _here() -> Iterator[None]:
    """The current directory comes first where modules are looked for, as with ``python -m``."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
