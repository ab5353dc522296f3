"""Runs the tests on every CPython from 3.10 on that this machine has, and prints a table.

Usage: pythons.py [--quick] [--jobs N] [--except VERSION] [--above X.Y] [--debian] [PYTEST ARGUMENTS]
Each gets a virtual environment under .venv-pythons; the oldest Python gets the oldest dependencies.
It must not know what is tested.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".venv-pythons"
OLDEST = (3, 10)
QUICK = ["tests/unit", "tests/backends", "tests/runtime"]

ASK = """
import platform, sys, sysconfig
free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
print(platform.python_implementation(), platform.python_version() + free)
import ensurepip, venv
"""

DEBIAN = "sid"
DEBIAN_PACKAGES = "python3,python3-venv,python3-dev,gcc,libc6-dev,make,git,ca-certificates,procps,tzdata"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


class Result(NamedTuple):
    """How it went on one Python."""

    version: str
    passed: bool
    seconds: float
    words: str


def candidates() -> Iterator[Path]:
    """Whatever may be a Python: pyenv's, those on the path, the system's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob("versions/*/bin/python3"))
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]
    for folder in dict.fromkeys(filter(None, folders)):
        if not Path(folder).name == "shims":
            yield from sorted(one for one in Path(folder).glob("python3*") if is_python(one.name))


def is_python(name: str) -> bool:
    return re.fullmatch(r"python3(\.\d+t?)?", name) is not None


def found() -> dict[str, Path]:
    """Every usable CPython by its version; says which are left out and why."""
    usable: dict[str, Path] = {}
    refused: dict[str, str] = {}
    for path in candidates():
        asked = subprocess.run([path, "-c", ASK], capture_output=True, text=True, timeout=60)
        if len(told := asked.stdout.split()) != 2:
            continue
        kind, version = told
        if kind != "CPython" or number(version) < OLDEST or version in usable:
            continue
        if asked.returncode:
            refused[version] = asked.stderr.strip().splitlines()[-1]
        else:
            usable[version] = path
    for version, why in refused.items():
        if version not in usable:  # another copy of it may be whole
            print(f"{version} is left out: it makes no virtual environments ({why})")
    return dict(sorted(usable.items(), key=lambda item: number(item[0], 3)))


def number(version: str, parts: int = 2) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:parts]))


def environment(version: str, python: Path) -> Path:
    """A virtual environment that has the package and what its tests need; made once per pyproject."""
    folder = PLACE / version
    inside, stamp = folder / "bin" / "python", folder / "stamp"
    if stamp.exists() and stamp.stat().st_mtime > (ROOT / "pyproject.toml").stat().st_mtime:
        return inside
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for wanted in (["--upgrade", "pip>=25.1"], ["--editable", "."], ["--group", "test"]):
        subprocess.run([*pip, *wanted], check=True, cwd=ROOT)
    if number(version) == OLDEST:  # the lower bounds are promises, too
        subprocess.run([*pip, *lower_bounds()], check=True)
    # Without it some tests skip: a new Python has it only later.
    if subprocess.run([*pip, "--only-binary", ":all:", "gevent"], cwd=ROOT).returncode:
        print(f"{version}: without gevent")
    stamp.touch()
    return inside


def lower_bounds() -> list[str]:
    """The oldest release of everything that the package needs, as pip is asked for it."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = text.partition("\ndependencies = [\n")[2].partition("\n]\n")[0]
    return [
        f"{name}=={oldest}" for name, oldest in re.findall(r'^    "([\w-]+)>=([\d.]+)', listed, re.M)
    ]


def tried(version: str, python: Path, arguments: list[str]) -> Result:
    log = PLACE / f"{version}.log"
    began = time.monotonic()
    try:
        inside = environment(version, python)
        with log.open("wb") as sink:
            command = [inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
            ended = subprocess.run(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError as error:
        return Result(version, False, time.monotonic() - began, f"cannot be set up: {error}")
    text = log.read_text("utf-8", "replace")
    words = (text.strip().splitlines() or ["nothing was said"])[-1]
    if ended.returncode:
        print(f"--- {version}\n{text[-6000:]}")
    return Result(version, ended.returncode == 0, time.monotonic() - began, words)


# --- Debian's newest -----------------------------------------------------------------------------------


def on_debian(above: str, arguments: list[str]) -> int:
    """The same in Debian's unstable, for Pythons newer than any here; exits with its status.

    Mounts are made in a mount namespace, so they end with the process and none is left to be undone.
    """
    with tempfile.TemporaryDirectory(prefix="delayq-debian-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # it becomes "/": closed to others, tests as another user reach no file
        log = PLACE / "debootstrap.log"
        with log.open("wb") as sink:
            command = ["debootstrap", "--variant=minbase", f"--include={DEBIAN_PACKAGES}", DEBIAN, name]
            subprocess.run(command, check=True, stdout=sink, stderr=subprocess.STDOUT)
        copy_sources(folder / "src")
        for path in ("/etc/resolv.conf", "/etc/hosts", CERTIFICATES):
            if Path(path).exists():
                (folder / path.lstrip("/")).unlink(missing_ok=True)
                shutil.copyfile(path, folder / path.lstrip("/"))
        script = (
            'set -e; mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev";'
            ' mount -t tmpfs tmpfs "$0/tmp"; chmod 1777 "$0/tmp"; exec chroot "$0" sh -c "$1"'
        )
        inner = (
            "export DEBIAN_FRONTEND=noninteractive; apt-get install -y -qq "
            "$(apt-cache search '^python3\\.[0-9]+-venv$' | cut -d' ' -f1) >/dev/null 2>&1;"
            f" cd /src && exec python3 .ci/pythons.py --above {above} {' '.join(arguments)}"
        )
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        trust = {"PIP_CERT": CERTIFICATES, "SSL_CERT_FILE": CERTIFICATES}
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, name, inner],
            env={**clean, **trust},
        ).returncode


def copy_sources(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():  # one that was deleted is listed until it is committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="unit, backend and runtime tests only")
    parser.add_argument("--jobs", type=int, default=1, help="how many Pythons at a time")
    parser.add_argument("--except", dest="known", default="", help="a version that was tried already")
    parser.add_argument("--above", default="", help="only versions newer than X.Y")
    parser.add_argument("--debian", action="store_true", help="also Debian's newest, if root here")
    options, arguments = parser.parse_known_args()
    PLACE.mkdir(exist_ok=True)
    pythons = {
        version: path
        for version, path in found().items()
        if version != options.known and (not options.above or number(version) > number(options.above))
    }
    print("Pythons:", ", ".join(pythons) or "none", flush=True)
    selected = [*QUICK, *arguments] if options.quick else arguments
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda item: tried(*item, selected), pythons.items()))
    failed = False
    for one in results:
        failed |= not one.passed
        print(
            f"{one.version:10} {'passed' if one.passed else 'FAILED'} {one.seconds:5.0f} s  {one.words}"
        )
    if options.debian:
        if os.getuid() or not shutil.which("debootstrap"):
            print(f"Debian {DEBIAN} is left out: it takes root and debootstrap")
        else:
            newest = max([number(options.above) or OLDEST, *map(number, pythons)])
            failed |= bool(on_debian(".".join(map(str, newest)), arguments))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
