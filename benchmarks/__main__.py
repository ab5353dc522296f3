"""``python -m benchmarks``: Flask-DelayQ beside its peers, in turn, as ratios; writes RESULTS.md.
Each run is a process of its own; A and B take turns, so that a noisy minute meets both."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROUNDS = 5
HERE = Path(__file__).parent


class Pair(NamedTuple):
    """One row: what is ours, what is the peer's, how many jobs each, and the ratio to reach."""

    what: str
    ours: str
    peer: str
    count: int
    peer_count: int
    target: float


PAIRS = (
    Pair("memory, 1 producer / ThreadPoolExecutor", "delayq_memory", "threadpool", 20_000, 20_000, 1.0),
    Pair("memory, 1 producer / Flask-Executor", "delayq_memory", "flask_executor", 20_000, 10_000, 1.0),
    Pair("memory, 1 producer / MemoryHuey", "delayq_memory", "huey_memory", 20_000, 10_000, 1.0),
    Pair(
        "sqlite FULL, 1 producer / SqliteHuey", "delayq_sqlite_full", "huey_sqlite_full", 3000, 1500, 2.0
    ),
    Pair("sqlite FULL, 1 producer / bare apsw", "delayq_sqlite_full", "apsw_commits", 8000, 8000, 0.6),
    Pair(
        "sqlite FULL, 8 producers / SqliteHuey",
        "delayq_sqlite_full_8",
        "huey_sqlite_full_8",
        3000,
        1500,
        2.0,
    ),
    Pair(
        "sqlite NORMAL, 1 producer / SqliteHuey fsync off",
        "delayq_sqlite_normal",
        "huey_sqlite_nosync",
        8000,
        3000,
        1.0,
    ),
)


def run(module: str, *arguments: str) -> list[float]:
    """One measurement in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments, folder],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    figures = json.loads(done.stdout.splitlines()[-1])
    return figures if isinstance(figures, list) else [figures]


def compare(pair: Pair) -> str:
    """A line of the table: the medians and the median of the paired ratios."""
    ours, peers = [], []
    for _ in range(ROUNDS):
        ours += run("subjects", pair.ours, str(pair.count))
        peers += run("subjects", pair.peer, str(pair.peer_count))
    ratio = median(a / b for a, b in zip(ours, peers, strict=True))
    mark = "ok" if ratio >= pair.target else "falls short"
    rates = f"{median(ours):,.0f} | {median(peers):,.0f}"
    return f"| {pair.what} | {rates} | {ratio:.2f} | {pair.target:g} | {mark} |"


def lateness() -> list[str]:
    """How late 2,000 delays over 5 s began, in milliseconds."""
    lines = []
    for name in ("delayq_sqlite", "apscheduler_memory", "threading_timer"):
        half, worst = run("lateness", name)
        lines.append(f"| {name} | {half * 1000:.2f} | {worst * 1000:.2f} |")
    return lines


def main() -> None:
    """Measure, print and write ``benchmarks/RESULTS.md``."""
    packages = ("flask", "apsw", "msgspec", "huey", "flask-executor", "apscheduler")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        "# Results",
        "",
        f"`make bench` on {time.strftime('%Y-%m-%d')}: CPython {platform.python_version()}, "
        f"{platform.machine()} with 2 cores, {versions}.",
        "",
        "No-op jobs `(int, str) -> int`, until a reader of the store sees every one completed.",
        f"Jobs per second, median of {ROUNDS} runs in turn; the ratio is the median of the paired ones.",
        "",
        "| work | ours | peer | ratio | to reach | |",
        "|---|---|---|---|---|---|",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    for pair in PAIRS:
        line = compare(pair)
        lines.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    late = ["", "| 2,000 delays over 5 s | p50 ms | p99 ms |", "|---|---|---|", *lateness()]
    sys.stdout.write("\n".join(late) + "\n")
    (HERE / "RESULTS.md").write_text("\n".join([*lines, *late]) + "\n")


if __name__ == "__main__":
    main()
