"""Loading a user's class: what works, and one clear line for each thing that does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.serving.deployment.policies import load_policies, load_policy

GOOD = """
import math

class Mine:
    needs_state = False
    def choose(self, request, replicas):
        return 3 if request else 1 / 0

class Quits(Mine):
    def choose(self, request, replicas):
        raise SystemExit("bye")

class Needs(Mine):
    def __init__(self, factor, *, other=1):
        pass

class Fails(Mine):
    def __init__(self):
        raise ValueError("two\\nlines")

class Lacks:
    pass

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError

class Odd(Mine):
    def __init__(self):
        raise Unprintable

value = 3
make = Mine
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with modules in it, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    files = {
        "wt_good": GOOD,
        "wt_syntax": "class Mine\n",
        "wt_raises": "x = {}['no']\n",
        "wt_exits": "import sys\nsys.exit(3)\n",
        "wt_imports": "import wt_nowhere\n",
        "wt_empty": "",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "wt_folder").mkdir()
    (tmp_path / "wt_folder" / "__init__.py").write_text("")
    (tmp_path / "wt_folder" / "inner.py").write_text(GOOD)
    return tmp_path


def load(text: str) -> object:
    return load_policy(text, "router", ("choose",))


def test_a_class_of_the_current_directory(here: Path) -> None:
    path = list(sys.path)
    router = load_policy("wt_good:Mine", "router", ("choose",))
    assert router.choose(1, []) == 3
    assert router.needs_state is False
    assert sys.path == path
    assert load_policy("wt_folder.inner:make", "router", ("choose",)).choose(1, []) == 3
    make = load_policies("wt_good:Mine", "router", ("choose",))
    assert make() is not make()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wt_good", "accepted: module:Class"),
        (":Mine", "accepted: module:Class"),
        ("wt_good:", "accepted: module:Class"),
        ("wt-good:Mine", "accepted: module:Class"),
        ("wt_good.py:Mine", "there is no module wt_good.py"),
        ("wt_goood:Mine", "there is no module wt_goood"),
        ("wt_folder.no:Mine", "there is no module wt_folder.no"),
        ("wt_good:Mines", "did you mean Mine"),
        ("wt_empty:Mine", "unknown class"),
        ("wt_good:value", "value is an int and not a class"),
        ("wt_good:Needs", "missing a required argument: 'factor'"),
        ("wt_good:Fails", "making it raised ValueError: two lines (wt_good.py, line 19)"),
        ("wt_good:Odd", "making it raised Unprintable"),
        ("wt_good:Lacks", "lacks the method choose; a router has choose"),
        ("wt_syntax:Mine", "importing wt_syntax raised SyntaxError"),
        ("wt_raises:Mine", "importing wt_raises raised KeyError: 'no' (wt_raises.py, line 1)"),
        ("wt_exits:Mine", "importing wt_exits raised SystemExit: 3"),
        ("wt_imports:Mine", "importing wt_imports raised ModuleNotFoundError: No module named 'wt_nowhere'"),
    ],
)
def test_mistakes_are_one_clear_line(here: Path, text: str, said: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load(text)
    assert said in str(error.value)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_policy_raises_later_is_told(here: Path) -> None:
    router = load_policy("wt_good:Mine", "router", ("choose",))
    with pytest.raises(
        ScenarioError, match=r"choose raised ZeroDivisionError: division by zero \(wt_good.py, line 7\)"
    ):
        router.choose(None, [])
    with pytest.raises(ScenarioError, match="choose raised SystemExit: bye"):
        load_policy("wt_good:Quits", "router", ("choose",)).choose(1, [])


@given(st.text(max_size=20))
def test_any_text_is_a_class_or_refused(text: str) -> None:
    with pytest.raises(ScenarioError):
        load(f"wt_{text}")
