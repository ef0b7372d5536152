"""Checked reading of a JSON configuration: every way it can be wrong ends in one line that says what is accepted.

Nothing outside this file touches raw configuration data: a :class:`Reader` hands out whole numbers in range, flags,
words and nested readers, and raises :class:`~windtunnel.errors.ScenarioError` naming the file, the key, the value and
what is accepted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from windtunnel.errors import ScenarioError

MAX_FILE_BYTES = 16 * 2**20
MAX_SIZE = 2**31
"""The largest accepted dimension, far above that of any network."""
MAX_LAYERS = 10_000
MAX_DEPTH = 64
MAX_VALUES = 1_000_000

_ENDLESS_OK = frozenset({"time_step_limit", "mamba_dt_limit"})
"""Keys whose published values hold Infinity (the clamp of Mamba-2's time step); nothing is computed from them."""

_REAL_KEYS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rope_theta", "rotary_emb_base")


def shown(value: object) -> str:
    """``value`` on one line of at most 60 characters, whatever it is."""
    if isinstance(value, Mapping):
        return f"an object of {len(value)} keys"
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    text = ascii(value[:80] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def printable(path: object) -> str:
    """A path on one line, its end kept where it is long."""
    text = "".join(c if c.isprintable() else "?" for c in str(path))
    return text if len(text) <= 200 else "..." + text[-197:]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises ScenarioError if the file cannot be read, is larger than 16 MiB, is not UTF-8, is not one JSON object, has a
    key twice, or nests deeper than 64 levels.
    """
    where = printable(path)
    reason = None
    raw = b""
    try:
        if path.exists() and not path.is_file():  # reading a pipe could wait for ever
            reason = "a folder" if path.is_dir() else "not a regular file"
        else:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
    if reason is not None:
        raise ScenarioError(f"{where} cannot be read: {reason}; expected a config.json file")
    if len(raw) > MAX_FILE_BYTES:
        raise ScenarioError(f"{where} is larger than {MAX_FILE_BYTES // 2**20} MiB; expected a config.json file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{where} is not UTF-8 (byte {error.start}); expected a JSON object") from None
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except ScenarioError:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ScenarioError(f"{where} is not valid JSON ({error.msg}, {place}); expected a JSON object") from None
    except RecursionError:
        raise ScenarioError(f"{where} nests deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise ScenarioError(f"{where} holds a number of thousands of digits; expected a config.json file") from None
    if not isinstance(data, dict):
        raise ScenarioError(f"{where} holds {shown(data)}; expected a JSON object")
    return data


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ScenarioError(f"{where}: key {shown(key)} appears twice; expected each key once")
            seen.add(key)
    return found


def check_values(data: Mapping[str, Any], where: str) -> None:
    """Raise ScenarioError on a NaN or an infinity, a key that is no string, or absurd depth or size anywhere."""
    stack: list[tuple[str, Any, int]] = [("", data, 0)]
    count = 0
    while stack:
        key, value, depth = stack.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ScenarioError(f"{where} nests deeper than {MAX_DEPTH} levels")
        if count > MAX_VALUES:
            raise ScenarioError(f"{where} holds more than {MAX_VALUES} values; expected a config.json file")
        if isinstance(value, Mapping):
            for name, item in value.items():
                if not isinstance(name, str):
                    raise ScenarioError(f"{where}: key {shown(name)} is not a string")
                stack.append((name, item, depth + 1))
        elif isinstance(value, list | tuple):
            stack.extend((key, item, depth + 1) for item in value)
        elif isinstance(value, float) and not math.isfinite(value) and key not in _ENDLESS_OK:
            raise ScenarioError(f"{where}: {printable(key)} holds {value}; expected a finite number")


class Reader:
    """Typed access to one object of a configuration.

    ``where`` names the file or model in errors, ``prefix`` the path of keys down to this object. ``nested`` says that
    the object is part of a larger configuration, where transformers writes only what differs from the class defaults;
    in a top-level object the main sizes must be stated.
    """

    __slots__ = ("data", "nested", "prefix", "where")

    def __init__(self, data: Mapping[str, Any], where: str, prefix: str = "", nested: bool = False) -> None:
        self.data = data
        self.where = where
        self.prefix = prefix
        self.nested = nested

    def error(self, key: str, value: object, expected: str) -> ScenarioError:
        return ScenarioError(f"{self.where}: {self.prefix}{key} is {shown(value)}; expected {expected}")

    def find(self, keys: Iterable[str]) -> tuple[str, Any]:
        """The first of ``keys`` that is present with a value other than null, or the first and None."""
        names = tuple(keys)
        for key in names:
            value = self.data.get(key)
            if value is not None:
                return key, value
        return names[0], None

    def _whole(self, key: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, value, f"a whole number from {low} to {high}")
        return value

    def size(self, *keys: str, default: int, low: int = 1, high: int = MAX_SIZE) -> int:
        """A whole number in [``low``, ``high``]; ``default`` where the key is missing or null."""
        key, value = self.find(keys)
        return default if value is None else self._whole(key, value, low, high)

    def optional(self, *keys: str, low: int = 1, high: int = MAX_SIZE) -> int | None:
        """A whole number, or None where the key is missing or null."""
        key, value = self.find(keys)
        return None if value is None else self._whole(key, value, low, high)

    def needed(self, *keys: str, default: int, low: int = 1, high: int = MAX_SIZE) -> int:
        """A whole number that a top-level configuration must state; ``default`` stands in nested ones only."""
        key, value = self.find(keys)
        if value is not None:
            return self._whole(key, value, low, high)
        if self.nested and key not in self.data:
            return default
        state = "null" if key in self.data else "missing"
        accepted = f"a whole number from {low} to {high}"
        raise ScenarioError(f"{self.where}: {self.prefix}{key} is {state}; expected {accepted}")

    def layers(self, *keys: str, default: int) -> int:
        return self.needed(*keys, default=default, high=MAX_LAYERS)

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def real(self, key: str, default: float, low: float = 0.0, high: float = 1e12) -> float:
        """A finite number in [``low``, ``high``]."""
        value = self.data.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def scaled(self, key: str, base: int, default: float) -> int:
        """``base`` times a ratio, which must come out whole and in the range of a size."""
        ratio = self.real(key, default, high=1e6)
        product = ratio * base
        if product != int(product) or not 1 <= product <= MAX_SIZE:
            accepted = f"a ratio that makes {base} a whole size up to {MAX_SIZE}"
            raise self.error(key, self.data.get(key, default), accepted)
        return int(product)

    def word(self, *keys: str, default: str) -> str:
        key, value = self.find(keys)
        if value is None:
            return default
        if not isinstance(value, str) or not 0 < len(value) <= 200:
            raise self.error(key, value, "a word")
        return value

    def words(self, key: str, accepted: Collection[str], length: int | None = None) -> list[str] | None:
        """A list of words out of ``accepted``, ``length`` long; None where missing or null."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise self.error(key, value, f"a list of {', '.join(sorted(accepted))}")
        for item in value:
            if not isinstance(item, str) or item not in accepted:
                raise self.error(key, item, f"entries out of {', '.join(sorted(accepted))}")
        self._length(key, value, length)
        return list(value)

    def numbers(self, key: str, low: int, high: int, length: int | None = None) -> list[int] | None:
        """A list of whole numbers in [``low``, ``high``]; None where missing or null."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise self.error(key, value, f"a list of whole numbers from {low} to {high}")
        self._length(key, value, length)
        return [self._whole(f"{key}[{i}]", item, low, high) for i, item in enumerate(value)]

    def _length(self, key: str, value: Collection[object], length: int | None) -> None:
        limit = MAX_LAYERS if length is None else length
        if len(value) > limit or (length is not None and len(value) != length):
            accepted = f"{length} entries, one a layer" if length is not None else f"at most {limit} entries"
            raise ScenarioError(f"{self.where}: {self.prefix}{key} has {len(value)} entries; expected {accepted}")

    def has(self, key: str) -> bool:
        return key in self.data

    def sub(self, key: str) -> Reader:
        """The nested object under ``key``, empty where missing or null."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(key, value, "an object")
        return Reader(value or {}, self.where, f"{self.prefix}{key}.", nested=True)

    def check_common(self) -> None:
        """Reject what is nonsense in any model, also where nothing is computed from it."""
        for key in _REAL_KEYS:
            self.real(key, 0.0)
