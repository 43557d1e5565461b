"""A grid search of scikit-learn on a Pool, and one process beside it, in a process of its own; prints a JSON object."""

from __future__ import annotations

import json
import os

import joblib
import numpy as np
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import spworkers as sp


class Where(SVC):  # type: ignore[misc]
    """An estimator of `__main__` that keeps the process in which it was fitted."""

    def fit(self, x: object, y: object) -> Where:
        super().fit(x, y)
        self.pid_ = os.getpid()
        return self


def where(estimator: Where, x: object, y: object) -> dict[str, float]:
    return {"accuracy": estimator.score(x, y), "pid": estimator.pid_}


def search(jobs: int) -> GridSearchCV:
    x, y = load_iris(return_X_y=True)
    grid = {"C": [0.1, 1.0, 10.0], "gamma": [0.01, 0.1, 1.0]}
    return GridSearchCV(Where(), grid, scoring=where, refit="accuracy", cv=3, n_jobs=jobs).fit(x, y)


def pids_of(found: GridSearchCV) -> set[int]:
    return {int(pid) for split in range(3) for pid in found.cv_results_[f"split{split}_test_pid"]}


sp.executors.register_joblib()
alone = search(1)
# Forked, since importing scikit-learn anew costs each worker a second.
with joblib.parallel_config("spworkers", n_jobs=2, start_method="fork"):
    found = search(2)
print(
    json.dumps(
        {
            "same": bool(
                np.array_equal(alone.cv_results_["mean_test_accuracy"], found.cv_results_["mean_test_accuracy"])
            ),
            "best": found.best_params_ == alone.best_params_,
            "here": os.getpid() in pids_of(found),
            "alone": pids_of(alone) == {os.getpid()},
            "processes": len(pids_of(found)),
        }
    )
)
