"""What pyproject.toml cannot say: Cython compiles the ring and what the supervisor shares, mypyc the protocol machines.

SPWORKERS_COMPILE=0 leaves the protocol machines interpreted, to debug them and to test that both give the same
results. SPWORKERS_OPTIMIZE=1 has the C compiler optimize less, in less time, where only the result counts.
The ring has no interpreted form: without a working C compiler the installation ends with a sentence that says so.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, ExecError, LinkError, PlatformError

ROOT = Path(__file__).resolve().parent
CYTHON = (Path("spworkers/ring"), Path("spworkers/supervisor"))
COMPILE = os.environ.get("SPWORKERS_COMPILE", "1") != "0"
OPTIMIZE = os.environ.get("SPWORKERS_OPTIMIZE", "2")
# Functions of ours that ours call are no others': the compiler and the linker, told so, make direct calls.
ELF = sys.platform not in ("darwin", "win32")
DIRECT_CALLS = ("-fno-plt", "-fno-semantic-interposition") if ELF else ()
DIRECT_LINKS = ["-Wl,-Bsymbolic"] if ELF else []
# A folder for each Python and each way, so that no build finds another one's products.
BUILD = Path("build", f"{sys.implementation.cache_tag}-{'compiled' if COMPILE else 'interpreted'}")

# Compiled by mypyc: the modules of these packages, and single ones.
MYPYC_PACKAGES = ("spworkers/protocol", "spworkers/halves")
MYPYC_MODULES: list[str] = [
    "spworkers/ioproc/conduct.py",
    "spworkers/ioproc/deferring.py",
    "spworkers/ioproc/errands.py",
    "spworkers/ioproc/following.py",
    "spworkers/ioproc/hub.py",
    "spworkers/ioproc/pipes.py",
    "spworkers/ioproc/ports.py",
    "spworkers/callhead.py",
    "spworkers/demand.py",
    "spworkers/inplace.py",
    "spworkers/lookaround.py",
    "spworkers/port.py",
    "spworkers/starting.py",
    "spworkers/waiting.py",
    *(
        f"spworkers/workers/{name}.py"
        for name in (
            "answer",
            "callformat",
            "callline",
            "callwaiting",
            "collector",
            "failover",
            "hooks",
            "interrupt",
            "loopreader",
            "manycalls",
            "measures",
            "packing",
            "quickcalls",
            "requestinfo",
            "runner",
            "slots",
            "tally",
            "working",
            "workerport",
        )
    ),
    *(
        f"spworkers/workers/pool/{name}.py"
        for name in (
            "kinds",
            "ledger",
            "functions",
            "globals",
            "jobs",
            "keeper",
            "crew",
            "dispatch",
            "bench",
            "deaths",
            "unpacking",
            "reader",
            "settling",
            "engine",
        )
    ),
]


def main() -> None:
    """Build, or only describe: the C sources are made where a command needs them, not for mere metadata."""
    os.chdir(ROOT)
    commands = set(sys.argv[1:])
    if "bdist_wheel" in commands:  # which packs whatever lies there, also what an earlier build left
        for stale in BUILD.glob("lib*"):
            shutil.rmtree(stale)
    describing = commands & {"dist_info", "egg_info", "sdist", "clean", "--help"}
    setup(
        ext_modules=[] if describing else extensions(),
        cmdclass={"build_ext": BuildExt},
        # The ring and the protocols, the two that take long, at the same time.
        options={"build": {"build_base": str(BUILD)}, "build_ext": {"parallel": "2"}},
    )


def extensions() -> list[Extension]:
    """Everything that is compiled."""
    check_compiler()
    found = cython_extensions()
    if COMPILE:
        found += protocol_extensions()
    return found


def cython_extensions() -> list[Extension]:
    """One extension for each *.pyx."""
    from Cython.Build import cythonize

    sources = [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            include_dirs=[str(folder)],
            depends=[str(each) for pattern in ("*.h", "*.pxi", "*.pxd") for each in sorted(folder.glob(pattern))],
            extra_compile_args=[f"-O{OPTIMIZE}", *direct_calls()],
            extra_link_args=DIRECT_LINKS,
        )
        for folder in CYTHON
        for path in sorted(folder.glob("*.pyx"))
    ]
    made: list[Extension] = cythonize(
        sources, build_dir=str(BUILD / "cython"), include_path=[*map(str, CYTHON)], language_level=3, quiet=True
    )
    return made


def protocol_extensions() -> list[Extension]:
    """The modules that mypyc compiles, as one library with a small extension for each."""
    from mypyc.build import mypycify

    found = (path for package in MYPYC_PACKAGES for path in sorted(Path(package).glob("*.py")))
    modules = [*(str(path) for path in found if path.name != "__init__.py"), *MYPYC_MODULES]
    # `tox -e types` checks all types; here they are used, and only those of these modules matter.
    flags = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports"]
    made: list[Extension] = mypycify(
        [*flags, *modules],
        opt_level=OPTIMIZE,
        debug_level="0",
        multi_file=True,  # for several processors
        group_name="spworkers",
        target_dir=str(BUILD / "mypyc"),
    )
    for extension in made:
        extension.extra_compile_args += direct_calls()
        extension.extra_link_args += DIRECT_LINKS
    return made


@functools.cache
def direct_calls() -> list[str]:
    """What has the compiler call functions without a detour by a table that others might change (ELF's PLT).

    In processes that run for some microseconds at a time, each with its own caches cold, the detours cost 4 %.
    """
    return [flag for flag in DIRECT_CALLS if _compiles(_compiler(), "int main(void) { return 0; }\n", flag, "-Werror")]


def _compiler() -> str:
    return os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"


def check_compiler() -> None:
    """End the installation with one sentence, before anything long begins, if C cannot be compiled here."""
    command = _compiler()
    if not _compiles(command, "int main(void) { return 0; }\n"):
        sys.exit(
            f"spworkers needs a C compiler to be installed from source, and {command!r} does not work here:"
            " install gcc or clang (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)."
        )
    if not _compiles(command, "#include <Python.h>\nint main(void) { return 0; }\n"):
        sys.exit(
            "spworkers needs the C headers of Python to be installed from source, and Python.h of"
            f" {sys.executable} is not there: install them (Debian, Ubuntu: apt install python3-dev)."
        )
    if not _compiles(command, "#include <stdatomic.h>\nint main(void) { return 0; }\n"):
        sys.exit(
            f"spworkers needs a C compiler with C11 atomics, which {command!r} lacks: install a newer gcc or clang."
        )


def _compiles(command: str, program: str, *more: str) -> bool:
    paths = sysconfig.get_paths()
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "probe.c"), Path(folder, "probe.o")
        source.write_text(program)
        include = [f"-I{paths[name]}" for name in ("include", "platinclude")]
        flags = shlex.split(os.environ.get("CFLAGS", ""))
        line = [*shlex.split(command), *flags, *more, *include, "-c", str(source), "-o", str(made)]
        try:
            done = subprocess.run(line, capture_output=True, check=False)
        except OSError:
            return False
        # A "compiler" that does nothing with success, /bin/true say, is none either.
        return done.returncode == 0 and made.exists()


class BuildExt(build_ext):
    """setuptools' own, with all processors at work, and one sentence at the end of a build that fails."""

    def build_extensions(self) -> None:
        compiler = self.compiler
        compile_one = compiler._compile

        def compile_all(
            sources: list[str],
            output_dir: str | None = None,
            macros: Any = None,
            include_dirs: Any = None,
            debug: bool = False,
            extra_preargs: Any = None,
            extra_postargs: Any = None,
            depends: Any = None,
        ) -> list[str]:
            """What distutils' `compile` does, for all files at the same time."""
            macros, objects, after, options, build = compiler._setup_compile(
                output_dir, macros, include_dirs, sources, depends, extra_postargs
            )
            arguments = compiler._get_cc_args(options, debug, extra_preargs)
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                list(threads.map(lambda each: compile_one(each, *build[each], arguments, after, options), build))
            return list(objects)

        compiler.compile = compile_all
        super().build_extensions()

    def run(self) -> None:
        try:
            super().run()
        except (CompileError, ExecError, LinkError, PlatformError) as problem:
            sys.exit(f"spworkers could not be compiled here ({problem}); the compiler's own message stands above.")


main()
