"""What a tool's own argument parser or configuration classes accept, as names, types and choices.

``export_schemas.py`` runs this file inside an environment where the tool is installed without a GPU:
``export_parsers.py TOOL STAND_INS SAMPLES`` prints one JSON object. ``STAND_INS`` (comma-separated) are packages that
hold compiled code for GPUs and are not installed: importing them gives an empty module. ``SAMPLES`` is a file of what
windtunnel writes for the tool (``export_samples.py``): the tool's parser has to take all of it. Only facts about
options are kept: no default, no help text.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MODULES = ("llama3", "deepseek_v3", "qwen3", "gpt_oss")
"""torchtitan's language models."""


class _Anything(type):
    """A class that stands for whatever a missing package would have given."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})

    def __call__(cls, *given: Any, **named: Any) -> Any:
        return given[0] if len(given) == 1 and callable(given[0]) and not named else _Anything("any", (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for packages that are not installed."""

    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] in self.packages:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []  # type: ignore[attr-defined]
        module.__version__ = "99"  # type: ignore[attr-defined]
        module.__getattr__ = lambda name: getattr(_Anything("any", (), {}), name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def text_type(read: Callable[[str], Any] | None) -> str:
    """What a function that reads an option's text takes: int, float, json, list (an expression of one) or str."""

    def reads(text: str) -> bool:
        try:
            read(text)  # type: ignore[misc]
        except (Exception, SystemExit):
            return False
        return True

    if read is None or reads("some text"):
        return "str"
    if reads('{"key": 1}'):
        return "json"
    if reads("([0]*1+[1]*2)"):
        return "list"
    return "float" if reads("0.5") else "int" if reads("1") else "str"


def of_parser(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    """Every long option of an argparse parser."""
    found: dict[str, dict[str, Any]] = {}
    for action in parser._actions:
        for name in action.option_strings:
            if not name.startswith("--") or name == "--help":
                continue
            entry: dict[str, Any] = {"type": "flag" if action.nargs == 0 else text_type(action.type)}  # type: ignore[arg-type]
            if isinstance(action, argparse.BooleanOptionalAction):
                entry = {"type": "flag"}
            elif action.type is bool:
                entry = {"type": "bool"}
            if action.choices is not None and entry["type"] != "flag":
                entry["choices"] = sorted(_word(c, action.type) for c in action.choices)
            if action.nargs in ("+", "*"):
                entry["many"] = True
            found[name] = entry
    return found


def _word(choice: Any, read: Any) -> str:
    """How a choice is written: an enumeration's by its name where the parser reads names, else by its value."""
    if not isinstance(choice, enum.Enum):
        return str(choice)
    try:
        return choice.name if read(choice.name) is choice else str(choice.value)
    except Exception:
        return str(choice.value)


def of_annotation(kind: Any) -> dict[str, Any]:
    """The type and choices that an annotation allows."""
    kind = getattr(kind, "__value__", kind)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return of_annotation(inner[0])
    if origin in (typing.Union, types.UnionType):
        each = [of_annotation(k) for k in inner if k is not type(None)]
        names = {e["type"] for e in each}
        if len(names) == 1:
            return each[0]
        words = [e for e in each if "choices" in e]
        joined = {"type": "any" if names - {"int", "float", "str"} else "float" if names == {"int", "float"} else "str"}
        return {**joined, "choices": words[0]["choices"]} if len(words) == len(each) else joined
    if origin is typing.Literal:
        return {"type": "str", "choices": [str(c) for c in inner]}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        plain = all(isinstance(c.value, int) for c in kind)
        return {"type": "int" if plain else "str", "choices": sorted(str(c.value) for c in kind)}
    names = {bool: "bool", int: "int", float: "float", str: "str"}
    if kind in names:
        return {"type": names[kind]}
    if isinstance(kind, type) and hasattr(kind, "model_fields"):
        return {"type": "dict"}
    return {"type": {dict: "dict", list: "list"}.get(origin or kind, "any")}


def of_models(model: Any, before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a pydantic model and of those inside it, with dots between."""
    for name, field in model.model_fields.items():
        yield before + name, of_annotation(field.annotation)
        for part in typing.get_args(field.annotation) or (field.annotation,):
            if isinstance(part, type) and hasattr(part, "model_fields"):
                yield from of_models(part, f"{before}{name}.")


Read = tuple[dict[str, Any], Callable[[Any], Any]]
"""What a tool accepts, and how it takes a sample."""


def vllm() -> Read:
    """``vllm serve``."""
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    vllm.platforms._current_platform = CpuPlatform()
    from vllm.config.cache import CacheDType
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    accepted = of_parser(parser)
    accepted["--kv-cache-dtype"]["choices"] = sorted(typing.get_args(CacheDType))  # the parser takes any text
    accepted["--quantization"]["choices"] = sorted(QUANTIZATION_METHODS)
    return {"accepted": accepted}, parser.parse_args


def sglang() -> Read:
    """``python -m sglang.launch_server``."""
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return {"accepted": of_parser(parser)}, parser.parse_args


def megatron() -> Read:
    """``pretrain_gpt.py`` and every other script of Megatron-LM."""
    import torch
    from megatron.training import arguments

    # Its checks ask what the GPU is: a Hopper.
    arguments.get_device_arch_version = lambda: 9
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 8
    torch.cuda.get_device_capability = lambda *given: (9, 0)
    torch.cuda.get_device_properties = lambda *given: types.SimpleNamespace(major=9, minor=0, name="H100")
    os.environ.update(WORLD_SIZE="64", RANK="0")

    def take(words: list[str]) -> None:
        sys.argv = ["pretrain_gpt.py", *words]
        os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "8" if "--use-megatron-fsdp" in words else "1"
        arguments.validate_args(arguments.parse_args(), {})

    return {"accepted": of_parser(arguments.add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))}, take


def torchrun() -> Read:
    """What starts the processes of every training framework."""
    from torch.distributed.run import get_args_parser

    return {"accepted": of_parser(get_args_parser())}, get_args_parser().parse_args


def deepspeed() -> Read:
    """The configuration's blocks that are classes, the names of the others, and what a training script takes."""
    import deepspeed
    from deepspeed.module_inject.auto_ep_presets.base import AutoEPConfig
    from deepspeed.runtime import config, constants, precision_config
    from deepspeed.runtime.activation_checkpointing import config as recompute
    from deepspeed.runtime.swap_tensor import constants as aio
    from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    accepted: dict[str, dict[str, Any]] = {}
    for name in ("TRAIN_BATCH_SIZE", "TRAIN_MICRO_BATCH_SIZE_PER_GPU", "GRADIENT_ACCUMULATION_STEPS"):
        accepted[getattr(constants, name)] = {"type": "int"}
    accepted[constants.GRADIENT_CLIPPING] = {"type": "float"}
    accepted[constants.STEPS_PER_PRINT] = {"type": "int"}
    accepted[constants.OPTIMIZER] = {"type": "dict"}
    accepted[f"{constants.OPTIMIZER}.{constants.TYPE}"] = {"type": "str", "choices": config.DEEPSPEED_OPTIMIZERS}
    accepted[f"{constants.OPTIMIZER}.{constants.OPTIMIZER_PARAMS}"] = {"type": "dict"}
    blocks = {
        "zero_optimization": DeepSpeedZeroConfig,
        "bf16": precision_config.DeepSpeedBF16Config,
        "fp16": precision_config.DeepSpeedFP16Config,
        "tensor_parallel": TPTrainingConfig,
    }
    for name, model in blocks.items():
        accepted[name] = {"type": "dict"}
        accepted.update(of_models(model, f"{name}."))
    for block, source, prefix in (
        (recompute.ACT_CHKPT, recompute, "ACT_CHKPT_"), (aio.AIO, aio, "AIO_"),
    ):  # fmt: skip
        accepted[block] = {"type": "dict"}
        for constant in [c.removesuffix("_DEFAULT") for c in vars(source) if c.startswith(prefix)]:
            if hasattr(source, f"{constant}_DEFAULT") and constant != prefix.rstrip("_"):
                default = getattr(source, f"{constant}_DEFAULT")
                kind = "int" if default is None else type(default).__name__
                accepted[f"{block}.{getattr(source, constant)}"] = {"type": kind}
    for key in config.get_pipeline_config({}):
        accepted[f"pipeline.{key}"] = {"type": "any"}
    for key, hint in typing.get_type_hints(AutoEPConfig).items():
        accepted[f"expert_parallel.{key}"] = of_annotation(hint)
    accepted.update(pipeline={"type": "dict"}, expert_parallel={"type": "dict"}, sequence_parallel_size={"type": "int"})
    script = of_parser(deepspeed.add_config_arguments(argparse.ArgumentParser()))

    def take(sample: dict[str, Any]) -> None:
        steps = sample["train_micro_batch_size_per_gpu"] * sample["gradient_accumulation_steps"]
        world = sample["train_batch_size"] // steps * sample.get("sequence_parallel_size", 1)
        config.dist.get_rank = lambda: 0
        config.dist.get_world_size = lambda group=None: world
        config.DeepSpeedConfig(sample)

    return {"accepted": {**accepted, **script}}, take


def torchtitan() -> Read:
    """``torchtitan.train``: the options that every configuration has, and the configurations with their sizes."""
    import torchtitan.tools.utils

    torchtitan.tools.utils.has_cuda_capability = lambda major, minor: True  # some configurations ask the GPU
    from torchtitan.config import ConfigManager
    from torchtitan.distributed.activation_checkpoint import ActivationCheckpointingConfig
    from torchtitan.trainer import Trainer

    accepted: dict[str, Any] = {"--module": {"type": "str", "choices": list(MODULES)}, "--config": {"type": "str"}}
    accepted.update(_dashed(Trainer.Config, ""))
    words = [
        a.name for part in typing.get_args(ActivationCheckpointingConfig) for a in getattr(part, "__metadata__", ())
    ]
    accepted["activation-checkpoint"] = {"type": "str", "choices": words}
    models = {}
    for module in MODULES:
        registry = importlib.import_module(f"torchtitan.models.{module}.config_registry")
        for name, make in vars(registry).items():
            if name.startswith(module) and "debug" not in name and getattr(make, "__module__", "") == registry.__name__:
                try:
                    config = make()
                except (ValueError, ImportError) as error:  # it asks the GPU what it can do
                    print(f"{name} is left out: {error}", file=sys.stderr)
                else:
                    models[f"{module}/{name}"] = _sizes(config)
    from torch.distributed.pipelining import schedules

    names = [name for name, kind in vars(schedules).items() if isinstance(kind, type)]
    known = [n.removeprefix("Schedule") for n in names if n.startswith("Schedule")]
    accepted["--parallelism.pipeline-parallel-schedule"]["choices"] = sorted(known)
    return {"accepted": accepted, "models": models}, lambda words: ConfigManager().parse_args(words)


def _dashed(kind: Any, before: str) -> Iterator[tuple[str, dict[str, Any]]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], f"{before}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(hint):
            yield from _dashed(hint, f"{name}.")
            continue
        entry = of_annotation(hint)
        if entry["type"] == "bool":
            yield f"--{name}", {"type": "flag"}
            yield f"--{before}no-{field.name.replace('_', '-')}", {"type": "flag"}
        elif entry["type"] != "any":
            yield f"--{name}", entry


def _sizes(config: Any) -> dict[str, Any]:
    model = config.model_spec.model
    layers = model.layers
    dense = layers[0].feed_forward
    experts = next((b.moe for b in layers if b.moe is not None), None)
    text = repr(config.model_spec)
    eight = next((f for f in ("NVFP4", "MXFP8", "Float8") if f"{f}Linear" in text or f"{f}Grouped" in text), "")
    return {
        "flavor": config.model_spec.flavor,
        "hidden": model.dim,
        "layers": len(layers),
        "vocab": model.vocab_size,
        "heads": layers[0].attention.n_heads,
        "experts": 0 if experts is None else _experts(experts),
        "dense": dense is not None,
        "quantized": eight,
    }


def _experts(moe: Any) -> int:
    for owner in (moe, getattr(moe, "router", None), getattr(moe, "experts", None)):
        if owner is not None and hasattr(owner, "num_experts"):
            return int(owner.num_experts)
    raise LookupError("a mixture of experts without a number of experts")


READERS: dict[str, Callable[[], Read]] = {
    "vllm": vllm, "sglang": sglang, "megatron": megatron, "torchtitan": torchtitan, "deepspeed": deepspeed,
    "torchrun": torchrun,
}  # fmt: skip


def main() -> None:
    tool, packages = sys.argv[1], sys.argv[2].split(",")
    if not hasattr(typing, "override"):  # Python 3.11 has what tools for 3.12 import from elsewhere
        typing.override = importlib.import_module("typing_extensions").override  # type: ignore[attr-defined]
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    sys.meta_path.append(_StandIns(packages))
    answer, sys.stdout = sys.stdout, sys.stderr
    schema, take = READERS[tool]()
    samples = json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
    for sample in samples:
        print(sample, file=sys.stderr)  # the last one is the one that was not taken
        take(sample)
    print(json.dumps({"parsed": len(samples), **schema}), file=answer)


if __name__ == "__main__":
    main()
