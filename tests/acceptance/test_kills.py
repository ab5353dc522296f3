"""SIGKILL at any moment, to any process that produces or runs jobs: nothing is lost, nothing is stuck.

What happened is known from the notes of the processes (`accounting.py`), not from the store.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from acceptance.accounting import Account, rows_of
from acceptance.conftest import Figure
from acceptance.nursery import Nursery
from acceptance.stores import config, wait_until_all_final
from waiting import wait_until

SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 10**6)
"""Of the random kills; printed, and to be given again by CHAOS_SEED."""

ROLES: tuple[dict[str, Any], ...] = (
    {"run": True},
    {"run": True},
    {"run": True, "produce": True},  # claims while it enqueues
    {"produce": True},
)


class Chaos:
    """Processes of all roles on one store; each that is killed is replaced at once.

    :param pause: seconds between two calls of a producing thread.
    """

    def __init__(self, children: Nursery, seed: int, pause: float) -> None:
        self.children = children
        self.chance = random.Random(seed)
        self.seed = seed
        self.pause = pause
        self.made = 0
        self.alive = [self._start(role) for role in range(len(ROLES))]

    def _start(self, role: int) -> tuple[int, str]:
        self.made += 1
        spec = dict(ROLES[role])
        if spec.get("produce"):
            spec["produce"] = {"threads": 2, "pause": self.pause, "seed": self.seed + self.made}
        name = f"{self.made}-role{role}"
        self.children.start(name, config=config(self.children.folder), **spec)
        return role, name

    def kill_one(self) -> None:
        threading.Event().wait(self.chance.uniform(0.1, 0.3))
        role, name = self.alive.pop(self.chance.randrange(len(self.alive)))
        self.children.kill(name)
        assert name in self.children.deaths, f"{name} had ended by itself:\n{self.children.log()}"
        self.alive.append(self._start(role))

    def end(self, timeout: float) -> Account:
        """Stop producing, let everything run, stop; what happened."""
        self.children.stop(*[name for role, name in self.alive if role == 3])
        self.children.stop(*[name for role, name in self.alive if role == 2])
        wait_until_all_final(self.children.folder, timeout)
        self.children.stop()
        return Account(self.children.folder, self.children.deaths)


def kill_and_recount(
    children: Nursery, figure: Figure, *, kills: int, jobs: int, pause: float, patience: float
) -> None:
    figure(f"CHAOS_SEED={SEED}")
    chaos = Chaos(children, SEED, pause)
    began = time.monotonic()
    done = 0
    while done < kills or acknowledged(children.folder) < jobs:
        chaos.kill_one()
        done += 1
    stopped = time.monotonic()
    account = chaos.end(timeout=patience)
    rows = rows_of(children.folder / "store.sqlite3")
    figure(
        f"{done} kills in {stopped - began:.1f} s, recovered {time.monotonic() - stopped:.1f} s later;"
        f" {len(account.acks)} jobs acknowledged, {len(rows)} stored,"
        f" {sum(map(len, account.runs.values()))} runs, {account.repeated} repeated,"
        f" rescues {sorted(Counter(row.rescues for row in rows.values()).items())}"
    )
    assert account.faults(rows) == []
    assert len(account.acks) >= jobs


def acknowledged(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\nack\t") for path in folder.glob("*.notes"))


def test_random_kills_lose_nothing(children: Nursery, figure: Figure) -> None:
    kill_and_recount(children, figure, kills=60, jobs=1000, pause=0.01, patience=40)


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_a_thousand_random_kills_lose_nothing(children: Nursery, figure: Figure) -> None:
    kill_and_recount(children, figure, kills=1000, jobs=100_000, pause=0.002, patience=60)


@pytest.mark.parametrize(
    ("verbs", "calls"),
    [
        (("enqueue", "claim", "record"), (1, 2, 3)),
        (("renew", "rescue", "fire"), (1, 2, 3)),
        (("announce",), (1,)),
        pytest.param(("announce",), (2, 3), marks=pytest.mark.stress),  # they come every 10 s
    ],
)
def test_a_kill_at_a_call_of_the_store_loses_nothing(
    children: Nursery, verbs: tuple[str, ...], calls: tuple[int, ...]
) -> None:
    """A process dies right before or after one of its calls, each on a store of its own; another one
    goes on."""
    points = [f"{when}:{verb}:{nth}" for verb in verbs for when in ("before", "after") for nth in calls]
    # So that there is something to rescue.
    die_at(children, {p: (f"{p} died first", "after:enqueue:9") for p in points if "rescue" in p})
    die_at(children, {point: (f"{point} dies", point) for point in points})
    for point in points:
        children.start(
            f"{point} goes on",
            config=config(children.folder, point),
            run=True,
            produce={"threads": 1, "each": 5, "seed": point},
            beat=3600,
        )
    for point in points:
        notes = children.folder / f"{point} goes on.notes"
        wait_until(lambda notes=notes: notes.exists() and b"\nproduced" in notes.read_bytes(), 20)
        wait_until_all_final(children.folder, 20, point)
    children.stop()
    faults = {}
    for point in points:
        account = Account(children.folder, only=point)
        rows = rows_of(children.folder / f"{point}.sqlite3")
        assert len(rows) >= 5
        faults[point] = account.faults(rows)
        beats = Counter(row.run_at for row in rows.values() if row.task == "beat")
        faults[point] += [f"the occurrence {at} came {n} times" for at, n in beats.items() if n > 1]
    assert {point: found for point, found in faults.items() if found} == {}


def die_at(children: Nursery, points: dict[str, tuple[str, str]]) -> None:
    """On each of these stores let a process run and produce until it kills itself.

    :param points: by store, its name and its fault point.
    """
    for store, (name, fault) in points.items():
        children.start(
            name,
            # Renewals come at a third of it. The others must not need it to end.
            config=config(children.folder, store, DELAYQ_LEASE=3 if "renew" in fault else 60),
            fault=fault,
            run=True,
            produce={"threads": 2, "pause": 0.05, "seed": fault},
            beat=0.2,
        )
    for name, _ in points.values():
        wait_until(lambda name=name: children.status(name) == -signal.SIGKILL, 30, f"{name} is killed")
