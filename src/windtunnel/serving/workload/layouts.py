"""Which column of a trace is what: the layouts of published traces, and the names that columns go by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import shown

ARRIVAL = (
    "arrival", "arrival_time", "arrived_at", "arrival_timestamp", "timestamp", "time", "start_offset", "start_time",
    "request_time", "offset",
)  # fmt: skip
INPUT = (
    "input_tokens", "context_tokens", "prompt_tokens", "request_tokens", "num_prefill_tokens", "prefill_tokens",
    "input_length", "prompt_length", "input_len", "prompt_len", "input_toks", "isl",
)  # fmt: skip
OUTPUT = (
    "output_tokens", "generated_tokens", "completion_tokens", "response_tokens", "num_decode_tokens", "decode_tokens",
    "output_length", "output_len", "output_toks", "osl",
)  # fmt: skip
SESSION = ("session_id", "session", "conversation_id", "chat_id")
CLIENT = ("client_id", "client", "user_id", "user", "tenant")
PRIORITY = ("priority",)
UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
BLOCKS = re.compile(r"(?:hash_ids|block_hashes|block_ids)(?:_(\d{1,7})_?(?:tok|token|tokens)?(?:_blocks?)?)?")
BLOCK_TOKENS = 512
"""Tokens of a hashed block where the column's name states none: those of the Mooncake traces."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of a table's columns by what they hold; None where there is none.

    ``unit_s``: seconds of one unit of ``arrival`` (of numbers; date-times need none). ``assumed``: whether that is a
    guess, since neither the column's name nor the layout states it.
    """

    input: str
    output: str
    arrival: str | None = None
    unit_s: float = 1.0
    assumed: bool = False
    blocks: str | None = None
    block_tokens: int = 0
    session: str | None = None
    client: str | None = None
    priority: str | None = None


def plain(name: str) -> str:
    """``"ContextTokens"`` → ``"context_tokens"``, ``"Timestamp (ms)"`` → ``"timestamp_ms"``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def recognise(columns: Iterable[str], where: str) -> Layout:
    """The layout of a table with these columns; ``where`` names the file.

    A column of times states its unit as a suffix (``arrival_ms``) and otherwise holds seconds, as BurstGPT's
    ``Timestamp`` and Vidur's ``arrived_at`` do; but Mooncake's ``timestamp``, beside ``input_length`` and
    ``output_length``, counts milliseconds.

    Raises:
        ScenarioError: no column of input or of output tokens; it lists what was found and what is needed.
    """
    found: dict[str, str] = {}
    for column in columns:
        found.setdefault(plain(column), column)
    inputs, outputs = _first(found, INPUT), _first(found, OUTPUT)
    if inputs is None or outputs is None:
        listed = ", ".join(shown(name) for name in list(found.values())[:12]) or "none"
        lacking = " and ".join(
            f"{what} tokens ({', '.join(names[:4])}, …)"
            for what, name, names in (("input", inputs, INPUT), ("output", outputs, OUTPUT))
            if name is None
        )
        raise ScenarioError(f"{where} has no column of {lacking}; its columns: {listed}")
    arrival, unit = _arrival(found)
    mooncake = arrival == found.get("timestamp") and {"input_length", "output_length"} <= found.keys()
    stated = arrival == found.get("arrived_at") or {"timestamp", "request_tokens", "response_tokens"} <= found.keys()
    blocks = next(((column, match) for name, column in found.items() if (match := BLOCKS.fullmatch(name))), None)
    return Layout(
        input=inputs,
        output=outputs,
        arrival=arrival,
        unit_s=unit or (1e-3 if mooncake else 1.0),
        assumed=arrival is not None and unit is None and not stated and not (mooncake and "hash_ids" in found),
        blocks=blocks[0] if blocks else None,
        block_tokens=max(int(blocks[1][1] or BLOCK_TOKENS), 1) if blocks else 0,
        session=_first(found, SESSION),
        client=_first(found, CLIENT),
        priority=_first(found, PRIORITY),
    )


def _first(found: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((found[name] for name in names if name in found), None)


def _arrival(found: Mapping[str, str]) -> tuple[str | None, float | None]:
    """(the column of arrival times, seconds of its unit if its name states one)."""
    for base in ARRIVAL:
        for suffix, seconds in UNITS.items():
            if f"{base}_{suffix}" in found:
                return found[f"{base}_{suffix}"], seconds
    return _first(found, ARRIVAL), None
