"""Compiling the decoding step on this machine, once for each source, compiler and processor.

Nothing needs it: without a compiler, or with `RUNG_COMPILED=0`, decoding goes through torch. The
compiler is the one that `CXX` names, else `c++`, `g++` or `clang++`. What it made is kept below
`RUNG_HOME` in `cache/compiled/`. As for torch's own kernels, `ATEN_CPU_CAPABILITY=avx2` keeps to AVX2.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

from rung.home import folder

SWITCH = "RUNG_COMPILED"
CAPABILITY = "ATEN_CPU_CAPABILITY"
SOURCES = ("decode.cpp", "products.h", "integers.h", "operations.h", "kernels.h")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O2", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-w")
AVX2 = ("-march=x86-64-v3",)
DEFAULT = ("-march=x86-64",)
NATIVE = ("-march=native", "-mprefer-vector-width=512")
# What is linked: some drivers, as gcc, leave out the library of C++ unless it is named.
LIBRARIES: tuple[tuple[str, ...], ...] = ((), ("-lstdc++",))
WHOLE = ("-Wl,-z,defs",) if sys.platform == "linux" else ()  # no library that lacks a symbol
PLAIN_NATIVE = ("-mcpu=native",)  # where the processor is not of the x86 family
TIMEOUT = 120  # seconds for the compiler

_making = threading.Lock()  # one compiler at a time, for whoever asks first
log = logging.getLogger("rung.forward")


def library() -> ctypes.CDLL | None:
    """The compiled step; None where it is switched off, or cannot be made."""
    return None if _switched_off() else _library(compiler(), _architecture())


def begin() -> None:
    """Compile while the caller loads a base, where that was not done before; `library` waits for it."""
    found = compiler()
    if found is not None and not _switched_off():
        threading.Thread(target=_made, args=(found, _architecture()), name="compiling").start()


def _switched_off() -> bool:
    return os.environ.get(SWITCH, "1").strip().lower() in ("0", "off", "no", "false")


def compiler() -> str | None:
    """The path of a C++ compiler; None without one."""
    named = os.environ.get("CXX")
    names = (named,) if named else COMPILERS
    return next((found for name in names if (found := shutil.which(name))), None)


def _architecture() -> tuple[str, ...]:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return PLAIN_NATIVE
    return {"avx2": AVX2, "default": DEFAULT}.get(os.environ.get(CAPABILITY, "").lower(), NATIVE)


@cache
def _library(compiler: str | None, architecture: tuple[str, ...]) -> ctypes.CDLL | None:
    made = None if compiler is None else _made(compiler, architecture)
    try:
        return None if made is None else ctypes.CDLL(str(made))
    except OSError as fault:
        log.info("decoding goes through torch: %s", fault)
        return None


def _made(compiler: str, architecture: tuple[str, ...]) -> Path | None:
    """The library's file, which is compiled where it is not there; None where it cannot be."""
    try:
        with _making:
            path = folder("cache") / "compiled" / f"{_key(compiler, architecture)}.so"
            if not path.exists():
                _compile(compiler, architecture, path)
            return path
    except (OSError, subprocess.SubprocessError) as fault:
        log.info("decoding goes through torch: %s", fault)
        return None


def _key(compiler: str, architecture: tuple[str, ...]) -> str:
    """A digest of all that the result depends on: sources, compiler, torch's OpenMP, processor."""
    import torch

    digest = hashlib.sha256()
    stat = Path(compiler).resolve().stat()
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    told = (
        *FLAGS,
        *WHOLE,
        *architecture,
        compiler,
        str(stat.st_size),
        str(stat.st_mtime_ns),
        torch.__version__,
    )
    digest.update("\n".join((*told, _processor())).encode())
    return digest.hexdigest()[:32]


def _processor() -> str:
    """What the processor can do, since a home may be shared by several machines."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()


def _compile(compiler: str, architecture: tuple[str, ...], path: Path) -> None:
    """Compile into a file that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        source = Path(__file__).parent / SOURCES[0]
        command = [compiler, *FLAGS, *WHOLE, *architecture, str(source), "-o", str(made)]
        for libraries in LIBRARIES:
            done = subprocess.run(
                [*command, *libraries], capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
            if not done.returncode:
                made.replace(path)
                return
    raise OSError((done.stderr.strip().splitlines() or ["the compiler failed"])[-1][:200])
