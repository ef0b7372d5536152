"""Techniques by name: those of this package, and those that other packages register.

A package adds some through the entry-point group ``windtunnel.techniques``: ``name = "module:Class"``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, TypeVar

from pydantic import ValidationError

from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.options import Options
from windtunnel.scenario.technique import Command, Technique
from windtunnel.scenario.text import named_parameters, shown

GROUP = "windtunnel.techniques"
"""Both the package of our own and the entry-point group of others'."""

O = TypeVar("O", bound=Options)  # noqa: E741


@cache
def _own() -> dict[str, str]:
    """Names of this package's techniques and their modules."""
    spec = find_spec(GROUP)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return {m.name.replace("_", "-"): f"{GROUP}.{m.name}" for m in pkgutil.iter_modules(folders)}


def _others() -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=GROUP)}


def technique_names() -> tuple[str, ...]:
    """Every name that ``--with`` takes."""
    return tuple(sorted({*_own(), *_others()}))


def technique_class(name: str) -> type[Technique]:
    """The technique of that name.

    Raises:
        ScenarioError: no such technique, or another package's that cannot be loaded.
    """
    if name in _own():
        module = importlib.import_module(_own()[name])
        found = [
            c for c in vars(module).values()
            if isinstance(c, type) and issubclass(c, Technique) and c.__module__ == module.__name__
            and getattr(c, "name", None) == name
        ]  # fmt: skip
        if len(found) != 1:
            raise ScenarioError(f"{module.__name__} must hold one technique named {name!r}; it holds {len(found)}")
        return found[0]
    others = _others()
    if name not in others:
        raise unknown("technique", name, technique_names())
    try:
        loaded = others[name].load()
    except Exception as error:
        raise ScenarioError(f"technique {shown(name)} of {others[name].value} cannot be loaded: {error}") from None
    if not (isinstance(loaded, type) and issubclass(loaded, Technique) and hasattr(loaded, "about")):
        raise ScenarioError(f"technique {shown(name)}: {others[name].value} is not a windtunnel Technique with `about`")
    loaded.name = name
    return loaded


@cache
def read_technique(text: str) -> Technique:
    """``name`` or ``name:param=value,…``.

    Raises:
        ScenarioError: an unknown name or parameter, or a value out of range.
    """
    name, given = named_parameters(text, "technique")
    cls = technique_class(name)
    for key in given:
        if key not in cls.model_fields:
            raise unknown(f"parameter of {name}:", key, cls.model_fields)
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
        value = f"={shown(first.get('input'))}" if where else ""
        raise ScenarioError(f"technique {name}: {where}{value}: {said}") from None


@cache
def _used(texts: tuple[str, ...], command: Command) -> tuple[Technique, ...]:
    found = tuple(read_technique(text) for text in texts)
    decided: dict[str, str] = {}
    for each in found:
        if sum(other.name == each.name for other in found) > 1:
            raise ScenarioError(f"technique {each.name} is given twice; accepted: once")
        if command not in each.about.commands:
            known = " and ".join(each.about.commands)
            raise ScenarioError(f"{each.name} changes {known}; it does nothing in {command}")
        for what in each.about.decides:
            if what in decided:
                raise ScenarioError(f"{decided[what]} and {each.name} both decide {what}; leave one out")
            decided[what] = each.name
    return found


def techniques_of(options: Options, command: Command) -> tuple[Technique, ...]:
    """The techniques that ``options`` ask for, in order.

    Raises:
        ScenarioError: an unknown one, one that does nothing here, or two that cannot be combined.
    """
    return _used(tuple(options.techniques), command) if options.techniques else ()


def requested(options: O, used: Sequence[Technique]) -> O:
    """The request as its techniques rewrite it.

    Raises:
        ScenarioError: the user asked for something else than a technique.
    """
    for technique in used:
        options = technique.request(options)
    return options


def describe(name: str) -> dict[str, Any]:
    """A technique as data: what it is, what it rewrites, and its parameters with their defaults and where these come
    from.

    Raises:
        ScenarioError: no such technique.
    """
    cls = technique_class(name)
    about = cls.about
    parameters = {
        key: {
            "default": field.default,
            "meaning": field.description or "",
            **(field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}),
        }
        for key, field in cls.model_fields.items()
    }
    return {
        "name": name,
        "seed": about.seed,
        "title": about.title,
        "source": about.source,
        "summary": about.summary,
        "rewrites": list(about.rewrites),
        "commands": list(about.commands),
        "decides": list(about.decides),
        "parameters": parameters,
        "neutral": dict(about.neutral),
    }
