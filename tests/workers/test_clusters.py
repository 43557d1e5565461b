"""Executors on a real Dask cluster and on Ray: `clusters.py` does it in a process of its own, here is what must come.

Dask is installed where the tests marked `once` run (tox.ini). Ray is a wheel of 80 MB and needs ten seconds to start:
it has an environment of its own, `tox -e ray`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import printed

pytestmark = [pytest.mark.once]


def outcomes(engine: str, folder: Path) -> dict[str, Any]:
    """What came of each step on that engine."""
    lines = printed(Path(__file__).parent / "clusters.py", engine, str(folder)).splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed: pip install 'spworkers[dask]'")
    return outcomes("dask", tmp_path_factory.mktemp("dask"))


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'spworkers[ray]', or tox -e ray")
    return outcomes("ray", tmp_path_factory.mktemp("ray"))


@pytest.fixture(params=["dask", "ray"])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    """On each of them in turn."""
    outcome: dict[str, Any] = request.getfixturevalue(request.param)
    return outcome


def error(found: dict[str, Any], step: str) -> str:
    """The error that a step ended with, `"Type: text"`."""
    return ": ".join(found[step])


def test_tasks(found: dict[str, Any]) -> None:
    assert found["pow"] == 1024
    assert found["elsewhere"]
    assert found["keywords"] == {"retries": 1, "key": 2, "workers": 3, "pure": 4}
    assert found["lambda"] == len("workers")
    assert found["workers"] == 2
    assert found["repr"].startswith("<Executor on ")


def test_equal_calls_are_all_done(found: dict[str, Any]) -> None:
    assert found["twice"] == 3


def test_what_cannot_be_carried(found: dict[str, Any]) -> None:
    assert error(found, "unpicklable result") == (
        "SerializationError: the task's result, a Unpicklable, cannot be sent back: RuntimeError: this stays here"
    )
    assert error(found, "odd exception") in ("RemoteError: pooltasks.OddInit: 1 and 2", "OddInit: 1 and 2")
    assert error(found, "exit") == "SystemExit: 3"


def test_large_arguments_and_results(found: dict[str, Any]) -> None:
    assert found["large"] == [2 * (9 << 20)] * 2


def test_an_endless_map(found: dict[str, Any]) -> None:
    assert found["map"] == [n * n for n in range(10)]


def test_a_callback_that_waits(found: dict[str, Any]) -> None:
    assert found["callback"] == 64


def test_a_pipeline_with_a_checkpoint(found: dict[str, Any]) -> None:
    """Even numbers and their opposites, by fives; the odd ones failed twice; the second run had nothing left to do."""
    assert found["pipeline"] == [[4, -4, 14, -14], 10, 2, True]


def test_handlers(found: dict[str, Any]) -> None:
    assert found["handlers"] == [5, True]


def test_a_time_limit_is_refused(found: dict[str, Any]) -> None:
    assert error(found, "pipeline's timeout").startswith("UnsupportedOptionError: abs: timeout=1: ")


def test_the_engine_has_nothing_to_warn_of(found: dict[str, Any]) -> None:
    assert not [step for step, value in found.items() if step.endswith(": warnings") and value]


def test_dask_cancels_what_waits_and_says_of_what_runs_that_it_does(dask: dict[str, Any]) -> None:
    said, results, begun = dask["cancel"]
    assert said == [[False, True], [False, True], [True, False], [True, False]]
    assert results == [7, 7]
    assert begun == 2


def test_dask_is_not_asked_what_it_takes_for_an_error(dask: dict[str, Any]) -> None:
    assert dask["cancel at once"] == []


def test_dask_forgets_what_has_arrived(dask: dict[str, Any]) -> None:
    assert dask["held"] is True


def test_the_example_for_dask(dask: dict[str, Any]) -> None:
    assert dask["example"] is None


def test_dask_large_arguments_are_sent_again(dask: dict[str, Any]) -> None:
    assert dask["sent again"] == [9 << 20, 2]


def test_dask_what_is_lost_fails(dask: dict[str, Any]) -> None:
    assert error(dask, "lost").startswith("WorkerDiedError: wait_for was lost by Dask tcp://")
    assert error(dask, "killed").startswith("QuarantinedError: posix._exit: ")
    assert dask["after"] == 8
    assert error(dask, "closed").startswith("ClosedError: wait_for: the client of Dask tcp://")
    assert error(dask, "submit to a closed client").startswith("ClosedError: the client of Dask tcp://")
    assert dask["shutdown"] == [None, 0]


def test_dask_clients_of_the_wrong_kind(dask: dict[str, Any]) -> None:
    assert error(dask, "no client").startswith("BadValueError: client is 'tcp://127.0.0.1:1'; it has to be a")
    assert "is asynchronous; an executor wants one that is not" in error(dask, "asynchronous")
    assert error(dask, "made of a closed client").startswith("BadValueError: client is closed; it has to be connected")


def test_ray_kills_what_runs(ray: dict[str, Any]) -> None:
    assert ray["cancel"] == [[True] * 4, 2]


def test_ray_what_is_lost_fails(ray: dict[str, Any]) -> None:
    assert error(ray, "killed").startswith("WorkerDiedError: posix._exit was lost by Ray: WorkerCrashedError: ")
    assert ray["after"] == 8
    assert error(ray, "submit to what was shut down") == "ClosedError: Ray was shut down"
    assert ray["shutdown"] is None
    assert error(ray, "closed") == "ClosedError: wait_for: Ray was shut down before it was done"
    assert error(ray, "wrong option").startswith("BadValueError: Ray: ")
