"""The package's public face, and its fixtures in a test run of somebody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import spworkers.testing

USER_TEST = """
import spworkers as sp
from spworkers.testing import CertificateAuthority, VirtualClock

def test_all(sp_mock, sp_clock, sp_inproc, sp_ca):
    assert isinstance(sp_clock, VirtualClock) and isinstance(sp_ca, CertificateAuthority)
    with sp.Pull(listen=[sp_mock("push").address, sp_inproc]) as pull:
        sp_mock("push")
        with sp.Push(dial=sp_inproc) as push:
            push.send(b"x")
            assert pull.recv(timeout=20) == b"x"
"""


def run(*command: str, where: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=where, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.once
def test_fixtures_in_somebody_elses_tests(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["spworkers.testing.fixtures"]\n')
    (tmp_path / "test_user.py").write_text(USER_TEST)
    assert "1 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", where=tmp_path)


def test_without_them_pytest_and_cryptography_are_not_needed(tmp_path: Path) -> None:
    program = (
        "import sys, spworkers.testing as t; t.Harness, t.Mock, t.RawPeer, t.VirtualClock, t.eventually;"
        "print([name for name in ('pytest', 'cryptography') if name in sys.modules])"
    )
    assert run("-c", program, where=tmp_path).strip() == "[]"


def test_every_name_is_there_and_says_what_it_is() -> None:
    for name in spworkers.testing.__all__:
        assert getattr(spworkers.testing, name).__doc__, name
    assert set(spworkers.testing.__all__) <= set(dir(spworkers.testing))
