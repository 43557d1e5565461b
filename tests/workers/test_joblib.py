"""A Pool as joblib's backend."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pooltasks as tasks
import pytest
from helpers import eventually, printed

import spworkers as sp

joblib = pytest.importorskip("joblib", reason="joblib is not installed: pip install 'spworkers[joblib]'")
pytestmark = [pytest.mark.once]


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    sp.executors.register_joblib()
    yield
    del joblib.parallel.BACKENDS["spworkers"]


def test_calls() -> None:
    with joblib.parallel_config("spworkers", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(100)) == [n * n for n in range(100)]
        assert os.getpid() not in joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))


def test_it_is_kept_for_a_block() -> None:
    factor = 3
    with joblib.Parallel(n_jobs=2, backend="spworkers") as parallel:
        pool = parallel._backend._pool
        assert parallel(joblib.delayed(lambda n: n * factor)(n) for n in range(20)) == [3 * n for n in range(20)]
        assert parallel(joblib.delayed(abs)(n) for n in (-1, -2)) == [1, 2]
        assert parallel._backend._pool is pool
    assert repr(pool).endswith("shut down>")


def test_an_error_ends_the_call_and_not_the_block() -> None:
    with joblib.Parallel(n_jobs=2, backend="spworkers") as parallel:
        with pytest.raises(LookupError, match="nothing"):
            parallel(joblib.delayed(tasks.fail)("nothing") for _ in range(5))
        assert parallel(joblib.delayed(abs)(n) for n in (-1, -2)) == [1, 2]


def test_what_runs_is_stopped_when_another_call_fails(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def fail_when_it_runs() -> None:
        while not (mark.exists() and mark.read_text()):  # it is there before what it says
            time.sleep(0.01)
        raise LookupError("now")

    with pytest.raises(LookupError, match="now"):
        joblib.Parallel(n_jobs=2, backend="spworkers")(
            [joblib.delayed(tasks.hang)(str(mark)), joblib.delayed(fail_when_it_runs)()]
        )
    pid = int(mark.read_text())
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_crash_is_one_calls() -> None:
    with pytest.raises(sp.WorkerDiedError, match="exit code 3"):
        joblib.Parallel(n_jobs=2, backend="spworkers")(joblib.delayed(tasks.leave)(3) for _ in range(2))


def test_the_pools_options(tmp_path: Path) -> None:
    with joblib.parallel_config(
        "spworkers", n_jobs=2, inner_max_num_threads=3, initializer=tasks.set_up, initargs=(7,)
    ):
        assert joblib.Parallel()([joblib.delayed(tasks.state_value)(), joblib.delayed(tasks.threads)()]) == [7, "3"]
    with joblib.parallel_config("spworkers", n_jobs=2, timeout=0.2):
        with pytest.raises(sp.TaskTimeoutError):
            joblib.Parallel()(joblib.delayed(tasks.hang)() for _ in range(2))
    with pytest.raises(sp.BadOptionError, match="backend 'spworkers' has no option 'verbosity'; there are affinity, "):
        joblib.parallel_config("spworkers", verbosity=1)
    with pytest.raises(sp.BadOptionError, match="did you mean memory_limit"):
        joblib.parallel_config("spworkers", memory_limt=1)


def test_results_as_they_come() -> None:
    results = joblib.Parallel(n_jobs=2, backend="spworkers", return_as="generator")(
        joblib.delayed(abs)(-n) for n in range(50)
    )
    assert list(results) == list(range(50))


def test_calls_within_calls() -> None:
    def inner(n: int) -> Any:
        return joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-m) for m in range(n))

    assert joblib.Parallel(n_jobs=2, backend="spworkers")(joblib.delayed(inner)(n) for n in (2, 3)) == [
        [0, 1],
        [0, 1, 2],
    ]


@pytest.mark.parametrize(("jobs", "workers"), [(1, 1), (None, 1), (3, 3), (-1, None), (-10_000, 1)])
def test_how_many(jobs: int | None, workers: int | None) -> None:
    from spworkers.workers.engines.onjoblib import PoolBackend

    assert PoolBackend().effective_n_jobs(jobs) == (workers or joblib.cpu_count())
    assert joblib.Parallel(n_jobs=1, backend="spworkers")([joblib.delayed(os.getpid)()]) == [os.getpid()]


def test_no_jobs() -> None:
    with pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.Parallel(n_jobs=0, backend="spworkers")([])


def test_it_may_be_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib.parallel, "DEFAULT_BACKEND", joblib.parallel.DEFAULT_BACKEND)
    sp.executors.register_joblib(make_default=True)
    assert os.getpid() not in joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(2))


def test_joblib_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(sp.BadValueError, match=r"joblib is not installed: pip install 'spworkers\[joblib\]'"):
        sp.executors.register_joblib()


def test_a_grid_search_of_scikit_learn() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    found = json.loads(printed(Path(__file__).parent / "gridsearch.py"))
    assert 1 <= found.pop("processes") <= 2
    assert found == {"same": True, "best": True, "here": False, "alone": True}
