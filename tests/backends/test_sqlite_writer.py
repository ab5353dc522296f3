"""Group commit: what happens to an operation when its neighbours fail, or its leader is interrupted.

It must not know the tables of the store; a table of its own is enough.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import signal
import threading
import time

import apsw
import pytest

from backends.sqlite_kit import child, line
from flask_delayq.backends.sqlite.file import writer as writer_module
from flask_delayq.backends.sqlite.file.connection import Sql
from flask_delayq.backends.sqlite.file.errors import CommitUnknown
from flask_delayq.backends.sqlite.file.writer import Writer
from flask_delayq.clock import SystemClock
from flask_delayq.errors import BackendUnavailableError
from pace import quiet_seconds

now = SystemClock.monotonic


class Bench:
    """A writer on a file with one table, and ways to hold it up."""

    def __init__(self, path):
        self.path = str(path)
        self.sql = Sql(self.path_created(), deadline=now() + 5)
        self.sql.rows("PRAGMA journal_mode = WAL")
        self.sql.rows("CREATE TABLE t (x INTEGER PRIMARY KEY) STRICT")
        self.gone = []
        self.confirm = lambda: None
        self.writer = Writer(
            lambda deadline: self.sql, confirm=lambda: self.confirm(), discard=self.gone.append
        )
        self.threads = []

    def path_created(self):
        open(self.path, "x").close()
        return self.path

    def run(self, operation, *, seconds=5, **options):
        return self.writer.run(operation, durable=True, deadline=now() + seconds, **options)

    def insert(self, x, **options):
        return self.run(lambda sql: sql.run("INSERT INTO t VALUES (?)", (x,)), **options)

    def stored(self):
        return {row[0] for row in self.sql.rows("SELECT x FROM t")}

    def start(self, call):
        """Run a call in a thread; returns what it answered, or raised, once it is joined."""
        answer = []

        def run():
            try:
                answer.append(call())
            except BaseException as error:
                answer.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.threads.append(thread)
        return answer

    def join(self):
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive(), "a thread was never answered"
        self.threads.clear()

    def waiting(self, count):
        """Block until so many requests stand in line."""
        deadline = now() + 5
        while len(self.writer._waiting) < count:
            assert now() < deadline
            time.sleep(0.001)


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "t.sqlite3")
    yield made
    made.join()
    made.sql.close()


@pytest.fixture
def held(bench):
    """An operation that leads and stands still until `held.set()`."""
    inside, go_on = threading.Event(), threading.Event()

    def stand(sql):
        inside.set()
        assert go_on.wait(10)

    bench.start(lambda: bench.run(stand))
    assert inside.wait(5)
    yield go_on
    go_on.set()


def test_those_who_wait_share_one_commit(bench, held):
    commits = []
    bench.confirm = lambda: commits.append(bench.stored())
    for x in range(5):
        bench.start(lambda x=x: bench.insert(x))
    bench.waiting(5)
    held.set()
    bench.join()
    assert commits == [set(), set(range(5))]


def test_who_fails_before_writing_leaves_the_others_alone(bench, held):
    def refuse(sql):
        raise BackendUnavailableError("no", reason="full")

    before, failed, after = (
        bench.start(call)
        for call in (lambda: bench.insert(1), lambda: bench.run(refuse), lambda: bench.insert(2))
    )
    bench.waiting(3)
    held.set()
    bench.join()
    assert (before, after) == ([1], [1])
    assert isinstance(failed[0], BackendUnavailableError)
    assert bench.stored() == {1, 2}


def test_who_fails_half_way_leaves_nothing_of_itself(bench, held):
    def half(sql):
        sql.run("INSERT INTO t VALUES (10)")
        sql.run("INSERT INTO t VALUES (1)")

    before, failed, after = (
        bench.start(call)
        for call in (lambda: bench.insert(1), lambda: bench.run(half), lambda: bench.insert(2))
    )
    bench.waiting(3)
    held.set()
    bench.join()
    assert (before, after) == ([1], [1])
    assert isinstance(failed[0], apsw.ConstraintError)
    assert bench.stored() == {1, 2}


def test_what_is_thrown_into_a_leader_hits_nobody_else(bench, held):
    """A neighbour's operation is interrupted in the leader's thread: the leader's misfortune only."""
    thrown = []

    def interrupted_once(sql):
        sql.run("INSERT INTO t VALUES (2)")
        if not thrown:
            thrown.append(threading.get_ident())
            raise KeyboardInterrupt
        return threading.get_ident()

    leader = bench.start(lambda: bench.insert(1))
    bench.waiting(1)
    follower = bench.start(lambda: bench.run(interrupted_once))
    last = bench.start(lambda: bench.insert(3))
    bench.waiting(3)
    held.set()
    bench.join()
    assert isinstance(leader[0], KeyboardInterrupt)
    assert follower[0] not in thrown
    assert last == [1]
    assert bench.stored() == {2, 3}


def test_a_deadline_in_the_line_withdraws(bench, held):
    begin = now()
    answer = bench.start(lambda: bench.insert(1, seconds=0.1))
    bench.threads.pop().join(5)
    assert isinstance(answer[0], BackendUnavailableError)
    assert answer[0].reason == "locked"
    assert now() >= begin + 0.1
    assert quiet_seconds(begin + 0.1) < 0.9
    held.set()
    bench.join()
    assert bench.stored() == set()


@pytest.fixture
def outsider(bench):
    """Another connection to the file, as another process has one; it gives its lock up in the end."""
    connection = apsw.Connection(bench.path)
    yield connection
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    bench.join()
    connection.close()


def test_who_comes_to_lead_in_the_moment_its_time_ends_gets_no_more_time(
    bench, held, outsider, monkeypatch
):
    """And the lock is somebody else's: it must not be waited for with a new deadline."""

    class Late:
        """Its time ends; and before its thread looks at anything else, it is made the leader."""

        def __init__(self, request):
            self.request, self.lock, self.ended = request, request.wake, False

        def acquire(self, timeout=-1):
            if self.ended:
                return self.lock.acquire(timeout=timeout)
            assert self.lock.acquire(timeout=10)
            self.lock.release()
            self.ended = True
            self.request.deadline = now() - 1
            return False

        def release(self):
            outsider.execute("BEGIN IMMEDIATE")
            self.lock.release()

    def late_one(*arguments, **options):
        request = made(*arguments, **options)
        request.wake = Late(request)
        return request

    made = writer_module.Request
    monkeypatch.setattr(writer_module, "Request", late_one)
    answer = bench.start(lambda: bench.insert(1, seconds=60))
    bench.waiting(1)
    monkeypatch.setattr(writer_module, "Request", made)
    held.set()
    bench.threads[-1].join(10)
    assert not bench.threads[-1].is_alive(), "it waits for a lock that nobody gives up"
    assert isinstance(answer[0], apsw.BusyError | BackendUnavailableError)
    outsider.execute("ROLLBACK")
    assert bench.insert(2) == 1


def test_a_deadline_in_the_group_of_a_leader_that_starts_again(bench, held, outsider):
    """A neighbour failed half way, all was rolled back, and then the lock is somebody else's."""
    roll_back = Sql.roll_back

    def half(sql):
        sql.run("INSERT INTO t VALUES (10)")
        sql.run("INSERT INTO t VALUES (10)")

    def roll_back_and_lose_the_lock(sql):
        roll_back(sql)
        if not outsider.in_transaction:
            outsider.execute("BEGIN IMMEDIATE")

    leader = bench.start(lambda: bench.insert(1, seconds=60))
    bench.waiting(1)
    failed = bench.start(lambda: bench.run(half, seconds=60))
    short = bench.start(lambda: bench.insert(2, seconds=0.5))
    doubter = bench.start(lambda: bench.insert(3, seconds=0.5, may_be_uncertain=True))
    late = bench.threads[-2:]
    bench.waiting(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sql, "roll_back", roll_back_and_lose_the_lock)
        held.set()
        for thread in late:
            thread.join(10)
            assert not thread.is_alive(), "its time is over, and it waits for another one's lock"
    assert isinstance(failed[0], apsw.ConstraintError)
    for answer in (short, doubter):
        assert isinstance(answer[0], BackendUnavailableError) and answer[0].reason == "locked"
    assert leader == []
    outsider.execute("ROLLBACK")
    bench.join()
    assert leader == [1]
    assert bench.stored() == {1}


def test_a_deadline_while_the_group_commits_leaves_a_doubt_or_waits(bench, held):
    """Only who asked for it learns of the doubt; the operation itself is stored in both cases."""
    committing, go_on = threading.Event(), threading.Event()
    doubted = bench.start(lambda: bench.insert(1, seconds=0.3, may_be_uncertain=True))
    may_wait = bench.start(lambda: bench.insert(2, seconds=0.3))
    first = bench.threads[1]
    bench.waiting(2)

    def lead(sql):
        committing.set()
        assert go_on.wait(5)

    # The one that stands still must lead the group of the other two.
    leader = bench.writer._waiting
    bench.start(lambda: bench.run(lead))
    bench.waiting(3)
    leader = bench.writer._waiting
    leader.insert(0, leader.pop())
    held.set()
    assert committing.wait(5)
    first.join(5)
    assert isinstance(doubted[0], CommitUnknown)
    assert may_wait == []
    go_on.set()
    bench.join()
    assert may_wait == [1]
    assert bench.stored() == {1, 2}


def test_a_commit_into_a_file_that_is_gone_is_not_acknowledged(bench):
    def gone():
        raise BackendUnavailableError("gone", reason="replaced")

    bench.confirm = gone
    with pytest.raises(CommitUnknown):
        bench.insert(1)
    assert len(bench.gone) == 1


def test_a_write_inside_a_write_is_refused_at_once(bench):
    with pytest.raises(BackendUnavailableError, match="inside one of its own operations"):
        bench.run(lambda sql: bench.insert(1))
    assert bench.insert(2) == 1


def test_a_lock_of_another_process_is_waited_for_and_not_longer_than_allowed(bench):
    with child("hold", bench.path, 1) as other:
        assert line(other) == "held"
        begin = now()
        with pytest.raises(apsw.BusyError):
            bench.insert(1, seconds=0.2)
        assert now() >= begin + 0.2
        assert quiet_seconds(begin + 0.2) < 0.5
        assert bench.insert(2) == 1
    assert bench.stored() == {2}


class ThrownError(Exception):
    pass


def test_who_was_cut_off_while_a_leader_had_its_operation_may_write_again(bench, held):
    """A time limit strikes a caller by a signal; its operation still lies in the leader's group."""

    def strike(*_args):
        raise ThrownError

    def cut_off(sql):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        bench.waiting(1)

    before = signal.signal(signal.SIGUSR1, strike)
    try:
        bench.start(lambda: bench.run(cut_off))
        bench.waiting(1)
        bench.start(lambda: bench.waiting(2) or held.set())
        with pytest.raises(ThrownError):
            bench.insert(1)
        assert bench.insert(2) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    bench.join()
    assert 2 in bench.stored()


def test_exceptions_thrown_at_any_moment_lose_nobody(bench):
    throw_at_random_moments(bench, trials=300)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_exceptions_thrown_at_any_of_many_moments_lose_nobody(bench):
    throw_at_random_moments(bench, trials=5000)


def throw_at_random_moments(bench, trials):
    """Threads insert while exceptions are thrown into one of them: every acknowledged row is there,
    every refused one may be, nobody waits for ever and no transaction stays open."""
    rng = random.Random(7)
    numbers = itertools.count()
    hits = acknowledged = 0
    for _ in range(trials):
        victim = Victim(bench, itertools.islice(numbers, 30))
        others = [list(itertools.islice(numbers, 4)) for _ in range(2)]
        bench.start(victim.run)
        thread = bench.threads[-1]
        answers = [bench.start(lambda xs=xs: [bench.insert(x) for x in xs]) for xs in others]
        assert victim.running.wait(5)
        time.sleep(rng.random() * 0.004)
        throw_into(thread)
        assert victim.ended.wait(10)
        victim.gate.set()
        bench.join()
        assert answers == [[[1] * 4]] * 2
        assert not bench.sql.connection.in_transaction
        assert bench.writer._leader is None
        stored = bench.stored()
        assert stored.issuperset(victim.done)
        assert stored.issuperset(x for xs in others for x in xs)
        hits += victim.hit
        acknowledged += len(victim.done)
    assert hits > trials * 0.8
    assert acknowledged > trials


class Victim:
    """Inserts numbers until an exception is thrown into it."""

    def __init__(self, bench, numbers):
        self.bench, self.numbers = bench, numbers
        self.done = []
        self.hit = False
        self.running, self.ended, self.gate = (threading.Event() for _ in range(3))

    def run(self):
        self.running.set()
        try:
            for x in self.numbers:
                self.bench.insert(x)
                self.done.append(x)
            self.ended.set()
            self.gate.wait(5)
        except ThrownError:
            self.hit = True
        self.ended.set()


def throw_into(thread):
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    throw(ctypes.c_ulong(thread.ident), ctypes.py_object(ThrownError))


# --- patience -----------------------------------------------------------------------------------


def test_a_patient_operation_rides_with_the_next_one(bench, monkeypatch):
    monkeypatch.setattr(writer_module, "PATIENCE", 10.0)
    monkeypatch.setattr(writer_module, "BUSY", 60.0)
    commits = []
    bench.confirm = lambda: commits.append(bench.stored())
    bench.insert(1)
    bench.start(lambda: bench.insert(2, may_wait=True))
    bench.waiting(1)
    bench.insert(3)
    bench.join()
    assert commits == [{1}, {1, 2, 3}]


def test_a_patient_operation_that_nobody_takes_along_goes_by_itself(bench):
    bench.insert(1)
    bench.insert(2, may_wait=True)
    assert bench.stored() == {1, 2}
    assert bench.writer._leader is None and not bench.writer._waiting


def test_where_nobody_writes_a_patient_operation_does_not_wait(bench, monkeypatch):
    monkeypatch.setattr(writer_module, "PATIENCE", 30.0)
    began = now()
    bench.insert(1, may_wait=True)
    assert quiet_seconds(began) < 10
    assert bench.stored() == {1}


def test_patience_ends_behind_a_leader_that_takes_long(bench, held):
    bench.start(lambda: bench.insert(1, may_wait=True))
    bench.start(lambda: bench.insert(2))
    bench.waiting(2)
    held.set()
    bench.join()
    assert bench.stored() == {1, 2}


@pytest.mark.parametrize("rounds", [300])
def test_patient_and_others_together_are_all_answered(bench, rounds):
    numbers = itertools.count()
    for may_wait in (True, True, False, False):
        bench.start(
            lambda may_wait=may_wait: [
                bench.insert(next(numbers), may_wait=may_wait) for _ in range(rounds)
            ]
        )
    bench.join()
    assert bench.stored() == set(range(4 * rounds))
    assert bench.writer._leader is None and not bench.writer._waiting
