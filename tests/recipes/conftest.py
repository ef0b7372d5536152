"""A workshop in which a recipe of CONTRIBUTING.md is followed on a throw-away thing.

It is a copy of the package in which only the files that the recipe names can be changed. The tests beside this file
then ask the copy for a step or a batch in which the new thing takes part.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def recipes() -> dict[str, str]:
    """The recipes of CONTRIBUTING.md by their headings."""
    chapter = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Recipes\n")[2]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in chapter.split("\n### ")[1:]}


class Workshop:
    """A copy of the repository's package and, once they are changed, of its tests, in which one recipe is followed."""

    def __init__(self, title: str, root: Path) -> None:
        self.title = title
        self.root = root
        self.package = root / "src" / "windtunnel"
        shutil.copytree(ROOT / "src" / "windtunnel", self.package)
        tokens = re.findall(r"`([\w@./-]+)`", recipes()[title])
        self.named = [re.compile(self._pattern(t)) for t in tokens if "/" in t or t.endswith((".yaml", ".py"))]

    @staticmethod
    def _pattern(token: str) -> str:
        """A file, perhaps without its first folders and with a part in capitals to be filled in, or all of a folder."""
        filled = re.sub(r"[A-Z]{4,}", "[^/@]+", token.replace(".", r"\."))
        return rf"(^|/){filled}{'' if token.endswith('/') else '$'}"

    def file(self, path: str) -> Path:
        """A file that the recipe names, in the copy."""
        assert any(p.search(path) for p in self.named), f"recipe {self.title!r} does not name {path}"
        return self._copy(path)

    def _copy(self, path: str) -> Path:
        copy = self.root / path
        if path.startswith("tests/") and not copy.exists():
            folder = Path(*Path(path).parts[:2])
            shutil.copytree(ROOT / folder, self.root / folder)
        return copy

    def create(self, path: str, text: str) -> None:
        file = self.file(path)
        assert not file.exists(), f"{path} is already there"
        assert file.parent.is_dir()
        file.write_text(text, encoding="utf-8")

    def append(self, path: str, text: str) -> None:
        file = self.file(path)
        file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")

    def change(self, path: str, old: str, new: str) -> None:
        """Put ``new`` in the place of ``old``, which stands there once."""
        file = self.file(path)
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    @contextmanager
    def opened(self) -> Iterator[ModuleType]:
        """The copy as the package ``windtunnel``, in the place of the real one for as long as the block lasts."""
        real = _loaded()
        for name in real:
            del sys.modules[name]
        sys.path.insert(0, str(self.package.parent))
        importlib.invalidate_caches()
        try:
            package = importlib.import_module("windtunnel")
            assert Path(str(package.__file__)).parent == self.package
            yield package
        finally:
            sys.path.remove(str(self.package.parent))
            for name in _loaded():
                del sys.modules[name]
            sys.modules.update(real)

    def load(self, path: str) -> ModuleType:
        """A test module of the copy, to be used while it is open."""
        spec = spec_from_file_location(f"recipe_{Path(path).stem}", self._copy(path))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up there
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules[spec.name]
        return module

    @staticmethod
    def law(test: Any, *arguments: Any) -> None:
        """One example given to a property test."""
        test.hypothesis.inner_test(*arguments)


def _loaded() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "windtunnel"}


@pytest.fixture
def follow(tmp_path: Path) -> Callable[[str], Workshop]:
    """A workshop for the recipe of a given heading."""
    return lambda title: Workshop(title, tmp_path)
