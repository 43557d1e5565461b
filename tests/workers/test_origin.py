"""How workers find an app."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from pathlib import Path

import cloudpickle
import pytest
from helpers import ENV

from spworkers.errors import SerializationError
from spworkers.workers.app import App
from spworkers.workers.origin import AppNotFoundError, describe, find, load, origin_of

here = App("here")
answer = 42


class Holder:
    app = here


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "served.py").write_text(
        "import spworkers.workers.app\ncalc = spworkers.workers.app.App('calc')\nother = 5\n"
    )
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "served", raising=False)
    return "served"


def test_a_module_that_nobody_can_import_goes_by_value(tmp_path: Path) -> None:
    """What `runpy` runs under a name of its own, as some debuggers and task runners do."""
    (tmp_path / "script.py").write_text(
        "import sys\nimport spworkers as sp\n"
        "app = sp.App('calc')\n"
        "def twice(number): return 2 * number\n"
        "@app.handler\n"
        "def add(one: int, other: int) -> int: return twice(one) + other\n"
        "with app.serve('tcp://127.0.0.1:0', workers=1, block=False) as server, sp.Client(server.address) as client:\n"
        "    print(client.add(1, 2))\n"
        "def begin(): sys.argv = [twice(4)]\n"
        "with sp.Pool(1, initializer=begin) as pool:\n"
        "    print(pool.submit(getattr, sys, 'argv').result())\n"
        "    print(pool.submit(twice, 3).result(), list(pool.map(twice, [4])))\n"
    )
    for name in ("<run_path>", "zork"):
        program = f"import runpy; runpy.run_path({str(tmp_path / 'script.py')!r}, run_name={name!r})"
        done = subprocess.run([sys.executable, "-c", program], env=ENV, capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == ("4\n[8]\n6 [8]\n", "")


def test_an_importable_app_goes_by_name() -> None:
    assert origin_of(here) == {"import": f"{__name__}:here"}
    assert load(origin_of(here)) is here
    assert describe(origin_of(here)) == f"{__name__}:here"


def test_an_app_of_a_function_goes_by_value() -> None:
    factor = 3
    app = App("local")

    @app.handler
    def scale(x: int) -> int:
        return x * factor

    origin = origin_of(app)
    assert list(origin) == ["value"]
    copy = load(origin)
    assert copy is not app
    assert copy.handlers["scale"](2) == 6
    assert describe(origin) == "an app by value"


def test_a_module_made_by_hand_is_not_importable_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("made_by_hand")
    monkeypatch.setitem(sys.modules, "made_by_hand", made)
    exec("from spworkers.workers.app import App\napp = App('made')", vars(made))
    assert list(origin_of(made.app)) == ["value"]


def test_an_app_that_cannot_be_sent_says_why() -> None:
    lock = threading.Lock()
    app = App("local")

    @app.handler
    def locked() -> bool:
        return lock.locked()

    with pytest.raises(SerializationError, match="lock"):
        origin_of(app)


def test_main_goes_by_value(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from spworkers.workers.app import App\n"
        "from spworkers.workers.origin import origin_of\n"
        "app = App('script')\n"
        "@app.handler\n"
        "def add(a: int, b: int) -> int: return a + b\n"
        "import sys; sys.stdout.buffer.write(origin_of(app)['value'])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, check=True)
    app = load({"value": done.stdout})
    assert app.name == "script"
    assert app.handlers["add"](1, 2) == 3
    with app.client() as client:
        assert client.add(1, 2) == 3


def test_apps_are_found_by_name(module: str) -> None:
    assert find("served:calc").name == "calc"
    assert find(f"{__name__}:Holder.app") is here


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("served", "module:attribute"),
        (":calc", "module:attribute"),
        ("served:", "module:attribute"),
        ("nowhere:app", "no module 'nowhere'"),
        ("served.deeper:app", "no module 'served.deeper'"),
        ("served:cal", "did you mean 'calc'"),
        ("served:other", "is no App but int; did you mean 'calc'"),
        (f"{__name__}.Path:x", "no module"),
        (f"{__name__}:answer", "is no App but int"),
        ("json:app", "nor any other App"),
        ("json:JSONDecoder", "^json:JSONDecoder is no App but type; there is no App in json$"),
    ],
)
def test_mistakes_are_explained(module: str, target: str, words: str) -> None:
    with pytest.raises(AppNotFoundError, match=words):
        find(target)


def test_what_the_module_itself_misses_is_its_own_error(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        find("broken:app")


def test_a_value_that_is_no_app_is_refused() -> None:
    with pytest.raises(AppNotFoundError):
        load({"value": cloudpickle.dumps(5)})


def test_the_lines_of_a_script_are_in_its_tracebacks(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(
        "import spworkers as sp\n"
        "app = sp.App('failing')\n"
        "@app.handler\n"
        "def handle():\n"
        "    raise ValueError('as a handler')\n"
        "def work():\n"
        "    raise ValueError('as a task')\n"
        "if __name__ == '__main__':\n"
        "    with app.serve('tcp://127.0.0.1:0', workers=1, block=False) as s, sp.Client(s.address) as client:\n"
        "        try:\n"
        "            client.handle()\n"
        "        except sp.RemoteError as error:\n"
        "            print(error.traceback)\n"
        "    with sp.Pool(1) as pool:\n"
        "        print(pool.submit(work).exception().__cause__)\n"
    )
    done = subprocess.run([sys.executable, str(script)], env=ENV, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    for line, name, words in ((5, "handle", "as a handler"), (7, "work", "as a task")):
        assert f'File "{script}", line {line}, in {name}\n    raise ValueError({words!r})' in done.stdout
