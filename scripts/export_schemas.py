"""Reads what the tools of ``--export`` accept, and writes it to ``tests/planning/export/schemas/TOOL.json``.

Run it by hand, with PyTorch for CPU installed (``pip install -e .[torch]``), when a tool has a new version:

    python scripts/export_schemas.py                      # every tool
    python scripts/export_schemas.py vllm sglang

Each tool is installed from PyPI into a throwaway environment that also sees the packages of this one; packages with
compiled code for GPUs are left out and stood in for by empty modules. Its own parser or configuration classes are
then imported and asked (``export_parsers.py``), and handed what windtunnel writes for a grid of plans
(``export_samples.py``). TensorRT-LLM's package on PyPI is a stub that fetches gigabytes from elsewhere: its schema,
``tensorrt-llm.json``, is written by hand from its documentation and is left alone here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from export_samples import samples

FOLDER = Path(__file__).parent.parent / "tests" / "planning" / "export" / "schemas"
READER = Path(__file__).with_name("export_parsers.py")


@dataclass(frozen=True)
class Tool:
    """A tool on PyPI: ``needs`` are the packages that its parser imports, ``alone`` those installed without what they
    need in turn, ``stand_ins`` the modules that are left empty."""

    package: str
    version: str
    needs: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()


SERVING = (
    "transformers>=5.16", "fastapi[standard]", "uvicorn", "aiohttp", "openai", "orjson", "prometheus_client", "pillow",
    "prometheus-fastapi-instrumentator", "tiktoken", "partial-json-parser", "jsonschema", "pyzmq", "msgspec", "einops",
    "mistral_common[image]", "cloudpickle", "watchfiles", "python-json-logger", "pybase64", "cbor2", "ijson", "regex",
    "setproctitle", "oss-harmony", "anthropic", "model-hosting-container-standards", "mcp>=2.2,<3", "cachetools",
    "psutil", "sentencepiece", "requests", "tqdm", "blake3", "py-cpuinfo", "protobuf", "lark", "filelock", "six",
    "setuptools<81", "compressed-tensors", "ninja", "uvloop", "zstandard", "xxhash", "gguf",
)  # fmt: skip

TOOLS = {
    "vllm": Tool(
        "vllm", "0.33.0", SERVING, ("triton",),
        ("xgrammar", "llguidance", "outlines_core", "lmformatenforcer", "opentelemetry", "depyf"),
    ),
    "sglang": Tool("sglang", "0.5.23", SERVING, ("triton",), ("xgrammar", "llguidance", "IPython", "sgl_kernel")),
    "megatron": Tool("megatron-core", "0.19.2", ("einops", "typing_extensions"), ("triton",)),
    "torchtitan": Tool(
        "torchtitan", "0.3.0", ("tyro", "tokenizers", "safetensors", "pillow", "datasets<4.8", "einops"),
        ("triton", "torchdata", "torchao", "spmd_types==0.3.1", "attn-gym==0.0.17", "torch_remat==0.2.2",
         "torch_checkpointing==0.1.1", "renderers==0.1.12"),
        ("grain", "wandb", "tensorboard"),
    ),
    "deepspeed": Tool(
        "deepspeed", "0.19.8", ("einops", "hjson", "msgpack", "ninja", "packaging", "psutil", "py-cpuinfo", "tqdm"),
        ("triton", "setuptools", "wheel"),
    ),
    "torchrun": Tool("torch", version("torch")),
}  # fmt: skip


def schema(name: str, tool: Tool, folder: Path) -> dict[str, object]:
    """What the tool accepts, read in an environment below ``folder``."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    (Path(inside) / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    environment = {**os.environ, "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    if tool.needs:
        subprocess.run([*install, *tool.needs], check=True, env=environment, stdout=sys.stderr)
    if tool.alone:
        subprocess.run([*install, "--no-deps", *tool.alone], check=True, env=environment, stdout=sys.stderr)
    if tool.package == "torch":
        return _read(name, tool, python, folder, environment)
    # A tool may ask for a newer Python than this one for what its parser does not use.
    pinned = [f"{tool.package}=={tool.version}", "--no-deps", "--ignore-requires-python", "--no-build-isolation"]
    subprocess.run([*install, *pinned], check=True, env=environment, stdout=sys.stderr)
    return _read(name, tool, python, folder, environment)


def _read(name: str, tool: Tool, python: Path, folder: Path, environment: dict[str, str]) -> dict[str, object]:
    given = folder / "samples.json"
    given.write_text(json.dumps([] if name == "torchrun" else samples(name)), encoding="utf-8")
    ran = subprocess.run(
        [python, READER, name, ",".join(tool.stand_ins), given],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    if ran.returncode:
        raise SystemExit(f"{name}: its parser could not be read\n{ran.stderr[-3000:]}")
    return {"tool": name, "version": tool.version, "how": "its own parser, imported", **json.loads(ran.stdout)}


def text(found: dict[str, object]) -> str:
    """JSON with an option on each line."""
    lines = []
    for key, value in found.items():
        if isinstance(value, dict):
            inner = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(value.items())]
            lines.append(f"{json.dumps(key)}: {{\n" + ",\n".join(inner) + "\n}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tools", nargs="*", choices=[*TOOLS, []], help="all of them unless some are named")
    for name in parser.parse_args().tools or list(TOOLS):
        with tempfile.TemporaryDirectory() as folder:
            written = text(schema(name, TOOLS[name], Path(folder)))
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{name}.json").write_text(written, encoding="utf-8")
        print(f"{name}: {len(written)} bytes")


if __name__ == "__main__":
    main()
