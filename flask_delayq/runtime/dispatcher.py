"""Claims due jobs and passes them to the workers.
The near future says only *when* to claim; the backend's claim decides *what* to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from ..backends.base import Backend
from ..clock import Clock
from ..config import Settings
from ..job import Claim, ClaimFor, Outcome, Verb
from .foreign_tasks import ForeignTasks
from .held import HeldClaim, HeldClaims
from .near_future import NEXT, PAGE, SAFETY, NearFuture
from .pool import WorkerPool
from .recorder import Recorder
from .reservations import Reservations

UNSTARTED_LIMIT = 0.1
"""Seconds after which a claim that no worker has begun is released for other processes."""

CLAIM_LIMIT = 256
"""Maximum number of jobs in one claim, because other writers wait for it."""


class Dispatcher:
    """Claims what is due for the places that are free. Also the :class:`~flask_delayq.client.Runner` of
    this process: threads that enqueue reserve places here and may run what they stored at once.

    Its state is these flags. Each is one reference or number, set and read without a lock: threads that
    enqueue set them, and so may finalizers. None is lost, since each is cleared *before* what it asks
    for is done:

        flag             set by                            cleared by            what it asks for
        ---------------  --------------------------------  --------------------  ------------------------
        accepting        the supervisor, once the process  the supervisor, at a  claims may be made
                         is announced                      stop
        _rung            ring: another process, a rescue   each turn, first      a claim and a look
                         or a schedule stored something
        _wanted          expect_now: a thread of this      each turn, first      a claim
                         process stored a job that is due
        pool.hungry      whoever finds no free place       each claim, before    the next place that is
                                                           the store is asked    free wakes us: a claim
        _look_at         each look: SAFETY later; a ring   -                     a look at this moment
                         or NEXT: now                                            (monotonic)
        _others          a ring, or a look that finds      a quiet second: the  a look at each claim:
                         what the wheel lacks              wheel is reloaded    the wheel lacks some
        _sleeps_until    each turn, at its end, in a list  -                     expect wakes us for what
                         of its own                                              is due before (wall)

    :param wake: lets the next turn begin now.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        settings: Settings,
        clock: Clock,
        owner: str,
        claims: HeldClaims,
        pool: WorkerPool[HeldClaim],
        recorder: Recorder,
        wake: Callable[[], None],
        foreign_tasks: ForeignTasks,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._owner = owner
        self._claims = claims
        self._pool = pool
        self._recorder = recorder
        self._wake = wake
        self._foreign_tasks = foreign_tasks
        self._queues = settings.queues
        self._lease = settings.lease
        self._strict = settings.strict_priority
        self._future = NearFuture(
            backend,
            clock,
            owner,
            queues=settings.queues,
            horizon=settings.horizon,
            foreign_tasks=foreign_tasks,
        )
        # Twice the time that an enqueue may take is certainly enough.
        self._reservations = Reservations(
            pool=pool, claims=claims, clock=clock, longest=settings.enqueue_timeout + SAFETY
        )
        self._knows_all_tasks = True
        self.accepting = False
        self._rung = False
        self._wanted = False
        self._look_at = float("-inf")
        self._others = False
        self._sleeps_until = [float("inf")]

    def turn(self, now: float) -> float:
        """One turn at a wall moment; returns the seconds to wait for the next one."""
        self._rung, rung = False, self._rung
        self._wanted, wanted = False, self._wanted
        self._return_unstarted()
        if not self.accepting:
            return SAFETY
        self._reservations.count()
        met = self._foreign_tasks.met
        if met and self._knows_all_tasks:
            self._knows_all_tasks = False
            self._future.forget()  # from now on it holds our own jobs only
        more = self._future.refill(now)  # before the look, which compares with it
        due = self._future.take(now)
        if rung or any(job_id == NEXT for _, job_id in due):
            self._look_at = float("-inf")
            self._others = True
        elif self._others and self._clock.monotonic() >= self._look_at and len(self._future) < PAGE:
            self._future.reload(now)
            self._others = False
        # Who met foreign jobs hears rings for them too, and a look costs nobody the store's lock.
        claims = bool(due) or wanted or self._pool.hungry or (rung and not met)
        looks = self._clock.monotonic() >= self._look_at or (claims and self._others)
        if looks and not claims:
            claims = looks = self._look(now)  # idle, most likely: a look is cheaper than a claim
        if claims:
            self._claim_due(now)
            if looks and not self._is_idle:
                self._look_at = float("-inf")  # what is due next is asked once there is a place
            # What was due is taken, so what the store names lies in the future, or came meanwhile.
            elif looks and self._look(now):
                self._rung = True
        return 0.0 if more or len(due) >= PAGE else self._wait()

    def ring(self) -> None:
        """Somebody stored something: look into the store now."""
        self._rung = True
        self._wake()

    # --- claiming ------------------------------------------------------------------------------

    def _claim_due(self, now: float) -> None:
        pool = self._pool
        while not self._recorder.is_full:
            places = pool.reserve(CLAIM_LIMIT)
            if not places:
                pool.hungry = True
                # Once more: a worker that ended between the two lines saw nobody to wake.
                places = pool.reserve(CLAIM_LIMIT)
                if not places:
                    return
            # Cleared before the claim and never after it: a job that is stored from now on may not be
            # seen by it, and whoever stores it sets the flag.
            pool.hungry = False
            claims: list[Claim] | None = None
            try:
                claims = self._backend.claim(
                    self._queues,
                    now=now,
                    limit=places,
                    owner=self._owner,
                    lease=self._lease,
                    strict=self._strict,
                    tasks=self._foreign_tasks.tasks,
                )
            finally:
                since = self._clock.monotonic()
                held = [HeldClaim(claim, None, since, claim.leased_at) for claim in claims or ()]
                self._give(places, held)
                if claims is None or len(claims) == places:
                    pool.hungry = True
            if len(claims) < places:
                return

    def _look(self, now: float) -> bool:
        is_due = self._future.look(now)
        self._look_at = self._clock.monotonic() + SAFETY
        if is_due or self._future.is_named:
            self._others = True
        return is_due

    def _give(self, places: int, items: Sequence[HeldClaim]) -> None:
        for held in items:
            self._claims.add(held)
            self._pool.put(held)
        if places > len(items):
            self._pool.give_back(places - len(items))
            if self._pool.hungry:
                self._wake()  # somebody found no place while these were reserved
        if not self.accepting:
            # A stop came between the claim and here, so it has not withdrawn these.
            self.release(self._claims.withdraw(float("inf")))

    def _return_unstarted(self) -> None:
        """Release claims that wait in memory behind long jobs: other processes may be free to run
        them."""
        limit = self._clock.monotonic() - UNSTARTED_LIMIT if self.accepting else float("inf")
        withdrawn = self._claims.withdraw(limit)
        if withdrawn:
            self.release(withdrawn)
            self._pool.stop_prefetching()  # after their places were returned, which it removes

    def release(self, claims: Sequence[Claim]) -> None:
        """Release claims that were withdrawn before they began."""
        now = self._clock.now()
        self._recorder.add_all([Outcome(claim, Verb.RELEASE, now) for claim in claims])
        self._pool.give_back(len(claims))
        self._pool.hungry = True  # if no other process takes them, our next free worker does

    # --- when to turn again --------------------------------------------------------------------

    def _wait(self) -> float:
        """Seconds until the next turn."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        wait = SAFETY
        if self._is_idle:
            wait = 0.0 if self._rung else self._look_at - monotonic
        unstarted = self._claims.oldest_unstarted()
        if unstarted is not None:
            wait = min(wait, unstarted + UNSTARTED_LIMIT - monotonic)
        due = self._future.next_due()
        if due is not None:
            wait = min(wait, due - now)
        self._sleeps_until = [now + wait]
        if self._future.is_behind:
            return 0.0  # it came between, and may have been compared with the sleep before
        return max(wait, 0.0)

    @property
    def _is_idle(self) -> bool:
        """Whether more jobs could be taken: else a query of the store is useless."""
        return not (self._pool.hungry or self._recorder.is_full)

    def _turn_by(self, moment: float) -> None:
        """Wake the dispatcher if it sleeps for longer. Call it from any thread, after the change."""
        sleep = self._sleeps_until
        if moment < sleep[0]:
            self._wake()
            sleep[0] = moment  # of this sleep only: the next turn sets the next one

    # --- the Runner of this process ------------------------------------------------------------

    def reserve(self, jobs: int) -> ClaimFor | None:
        """Reserve places for jobs that are being enqueued; ``None`` if there are none."""
        if not self.accepting or self._pool.hungry or self._recorder.is_full:
            return None
        return self._reservations.begin(self._owner, self._lease, jobs)

    def hand_over(self, reserved: ClaimFor, claims: Sequence[tuple[Claim, Struct | None]]) -> None:
        """Run jobs that were claimed when they were enqueued; unused places are freed."""
        since = self._clock.monotonic()
        self._reservations.end(reserved)
        held = [HeldClaim(claim, values, since, claim.leased_at) for claim, values in claims]
        self._give(reserved.slots, held)
        if self._pool.busy > self._pool.size:  # perhaps it waits behind a long job
            self._turn_by(self._clock.now() + UNSTARTED_LIMIT)

    def expect(self, jobs: Sequence[tuple[str, float]]) -> None:
        """Jobs (id, due time) were stored and wait: turn now, or when they are due."""
        now = self._clock.now()
        earliest = float("inf")
        due_now = False
        for job_id, run_at in jobs:
            if run_at <= now:
                due_now = True
            else:
                self._future.expect(job_id, run_at)
                earliest = min(earliest, run_at)
        if due_now:
            self.expect_now()
        self._turn_by(earliest)

    def expect_now(self) -> None:
        """A job was stored that is due and waits: turn as soon as there is a place for it."""
        pool = self._pool
        if pool.hungry:
            return  # the next claim will find it, or the next free place wakes us
        self._wanted = True
        if pool.busy >= pool.places:
            # In this order: a worker that ends between the two lines sees the flag and wakes us.
            pool.hungry = True
            if pool.busy >= pool.places:
                return
        self._wake()

    def request_cancel(self, job_id: str) -> None:
        """If the job runs here, make its ``cancel_requested`` True."""
        self._claims.request_cancel(job_id)
