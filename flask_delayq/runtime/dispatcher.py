"""Finds out when something is due, claims it and hands it to the workers.
The wheel says only *when* to look; *what* to run is decided by the backend's claim alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from ..backends.base import Backend
from ..clock import Clock
from ..config import Settings
from ..job import Claim, ClaimFor, Outcome, Verb
from .foreign_tasks import ForeignTasks
from .held import HeldClaim, HeldClaims
from .pool import WorkerPool
from .recorder import Recorder
from .wheel import TimingWheel

SAFETY = 1.0
"""Seconds between two looks into the store whatever the wheel says: what a lost ring, a clock step or a
process that died after enqueueing can cost at most."""

UNSTARTED_LIMIT = 0.1
"""Seconds after which a claim that no worker has begun goes back for others to take."""

PAGE = 2000
"""Jobs read into the wheel in one step."""

CLAIM_LIMIT = 256
"""Jobs claimed in one step: others who write wait for so many at most."""

WHEEL_LIMIT = 200_000
"""Jobs in the wheel at most; beyond it the horizon is shorter than configured."""


class Dispatcher:
    """Claims what is due for the places that are free. Also the :class:`~flask_delayq.client.Runner` of
    this process: threads that enqueue reserve places here and may run what they stored at once.

    :param wake: lets the next turn begin now.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        clock: Clock,
        owner: str,
        claims: HeldClaims,
        pool: WorkerPool[HeldClaim],
        recorder: Recorder,
        wake: Callable[[], None],
        strangers: ForeignTasks,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._owner = owner
        self._claims = claims
        self._pool = pool
        self._recorder = recorder
        self._wake = wake
        self._foreign_tasks = strangers
        self._queues = settings.queues
        self._lease = settings.lease
        self._horizon = settings.horizon
        self._reserved_for = settings.enqueue_timeout + SAFETY
        self._strict = settings.strict_priority
        self.accepting = False
        """Whether claims may be made; set once the process is announced, cleared when it stops."""
        self._wheel = TimingWheel(clock.now())
        # Touched by turns alone. Who enqueues takes no lock here: it may be a finalizer, which runs in
        # the middle of whatever its thread does.
        self._loaded_until = float("-inf")
        self._expected: deque[tuple[str, float]] = deque()  # on their way into the wheel
        self._sleeps_until = [float("inf")]  # a new list for each sleep
        self._seen_due: float | None = None  # the store's next due moment at the last look
        self._look_at = float("-inf")  # monotonic moment of the next look whatever the wheel says
        self._reserved: set[ClaimFor] = set()  # for threads that enqueue right now
        self._count_at = float("-inf")  # monotonic
        self._asks_for_ours = False
        self._rung = False  # by another process
        self._wanted = False  # by a thread of this one

    def turn(self, now: float) -> float:
        """One turn at a wall moment; returns the seconds to wait for the next one."""
        self._rung, rung = False, self._rung
        self._wanted, wanted = False, self._wanted
        self._return_unstarted()
        if not self.accepting:
            return SAFETY
        self._count_places()
        if self._foreign_tasks.met:
            self._ask_for_ours()
        self._take_expected()
        popped = self._wheel.advance(now, PAGE)
        look = self._clock.monotonic() >= self._look_at
        if self._foreign_tasks.met:
            # It rings for the jobs of others as well, and a glance costs nobody the store's lock.
            look, rung = look or rung, False
        if look and not (popped or rung or wanted or self._pool.hungry):
            self._look()  # idle, most likely: a glance is cheaper than a claim
        seen = self._seen_due is not None and self._seen_due <= now
        if popped or rung or wanted or seen or self._pool.hungry:
            self._claim_due(now, look=rung or look)
        more = self._refill(now)
        return 0.0 if more or len(popped) == PAGE else self._wait()

    def _ask_for_ours(self) -> None:
        """From the first job of a stranger on the wheel holds our own jobs only."""
        if self._asks_for_ours:
            return
        self._asks_for_ours = True
        self._wheel = TimingWheel(self._clock.now())
        self._loaded_until = float("-inf")
        self._seen_due = None

    def ring(self) -> None:
        """Somebody enqueued something: look into the store now."""
        self._rung = True
        self._wake()

    # --- claiming ------------------------------------------------------------------------------

    def _claim_due(self, now: float, *, look: bool) -> None:
        pool = self._pool
        while True:
            if self._recorder.is_full:
                return
            places = pool.reserve(CLAIM_LIMIT)
            if not places:
                pool.hungry = True
                # Once more: a worker that ended between the two lines saw nobody to wake.
                places = pool.reserve(CLAIM_LIMIT)
                if not places:
                    break
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
                self._give(
                    places, [HeldClaim(claim, None, since, claim.leased_at) for claim in claims or ()]
                )
                if claims is None or len(claims) == places:
                    pool.hungry = True
            if len(claims) < places:
                break
        if not pool.hungry and (look or self._seen_due is not None):
            # Everything due is taken, so whatever the store names now lies in the future.
            self._look()

    def _look(self) -> None:
        self._seen_due = self._backend.next_due(
            self._queues, owner=self._owner, tasks=self._foreign_tasks.tasks
        )
        self._look_at = self._clock.monotonic() + SAFETY

    def _give(self, places: int, items: Sequence[HeldClaim]) -> None:
        for held in items:
            self._claims.add(held)
            self._pool.put(held)
        if places > len(items):
            self._pool.give_back(places - len(items))
            if self._pool.hungry:
                self._wake()  # somebody found no place while these were reserved
        if not self.accepting:
            # A stop came between the claim and here, so what it withdrew were not these.
            self.release(self._claims.withdraw(float("inf")))

    def _return_unstarted(self) -> None:
        """No job waits in memory behind a neighbour's long one: others may be free to run it."""
        limit = self._clock.monotonic() - UNSTARTED_LIMIT if self.accepting else float("inf")
        withdrawn = self._claims.withdraw(limit)
        if withdrawn:
            self.release(withdrawn)
            self._pool.stop_prefetching()  # after their places came back, which go with it

    def _count_places(self) -> None:
        """Compare the places that are taken with what takes them, once a second."""
        moment = self._clock.monotonic()
        if moment < self._count_at:
            return
        self._count_at = moment + SAFETY
        known = self._claims.places
        for reserved in self._reserved.copy():
            if moment - reserved.asked_at > self._reserved_for:
                self._reserved.discard(reserved)  # its thread was cut off: no enqueue takes so long
            else:
                known += reserved.slots
        self._pool.settle(known)

    def release(self, claims: Sequence[Claim]) -> None:
        """Give claims back that were withdrawn before they began."""
        now = self._clock.now()
        self._recorder.add_all([Outcome(claim, Verb.RELEASE, now) for claim in claims])
        self._pool.give_back(len(claims))
        self._pool.hungry = True  # if nobody else takes them, our next free worker does

    # --- when to look --------------------------------------------------------------------------

    def _refill(self, now: float) -> bool:
        """Page the near future into the wheel; True if there is more to read."""
        until = now + self._horizon
        if self._loaded_until >= now + self._horizon / 2 or len(self._wheel) >= WHEEL_LIMIT:
            return False
        after = max(self._loaded_until, now)
        page = self._backend.upcoming(
            self._queues, after=after, until=until, limit=PAGE, tasks=self._foreign_tasks.tasks
        )
        for due, job_id in page:
            self._wheel.add(job_id, due)
        self._loaded_until = page[-1][0] if len(page) >= PAGE else until
        return len(page) >= PAGE

    def _take_expected(self) -> None:
        for _ in range(len(self._expected)):
            job_id, run_at = self._expected.popleft()
            if run_at <= self._loaded_until:  # later ones come with their page
                self._wheel.add(job_id, run_at)

    def _wait(self) -> float:
        unstarted = self._claims.oldest_unstarted()
        wait = SAFETY
        claims = not (self._pool.hungry or self._recorder.is_full)
        if claims:
            # Until the next look and no sooner: it would be put off by a whole turn.
            wait = self._look_at - self._clock.monotonic()
        self._take_expected()
        due = self._wheel.next_due()
        moment = self._clock.now() + wait
        if due is not None:
            moment = min(moment, due)
        if self._seen_due is not None and claims:
            moment = min(moment, self._seen_due)
        self._sleeps_until = [moment]
        if self._expected:
            return 0.0  # it came between, and may have been compared with the sleep before
        wait = min(wait, moment - self._clock.now())
        if unstarted is not None:
            wait = min(wait, unstarted + UNSTARTED_LIMIT - self._clock.monotonic())
        return max(wait, 0.0)

    # --- the Runner of this process ------------------------------------------------------------

    def reserve(self, jobs: int) -> ClaimFor | None:
        """Places for jobs that are being enqueued, or ``None``."""
        if not self.accepting or self._pool.hungry or self._recorder.is_full:
            return None
        places = self._pool.reserve(jobs)
        if not places:
            return None
        reserved = ClaimFor(self._owner, self._lease, places, self._clock.monotonic())
        self._reserved.add(reserved)
        return reserved

    def hand_over(self, reserved: ClaimFor, claims: Sequence[tuple[Claim, Struct | None]]) -> None:
        """Run what was claimed while it was enqueued; unused places are free again."""
        since = self._clock.monotonic()
        self._reserved.discard(reserved)
        held = [HeldClaim(claim, values, since, claim.leased_at) for claim, values in claims]
        self._give(reserved.slots, held)

    def expect(self, jobs: Sequence[tuple[str, float]]) -> None:
        """Jobs (id, due moment) were stored and wait: turn now, or when they are due."""
        if not jobs:
            return
        now = self._clock.now()
        due_now = False
        earliest = float("inf")
        for job in jobs:
            if job[1] <= now:
                due_now = True
            else:
                self._expected.append(job)
                earliest = min(earliest, job[1])
        if due_now:
            self.expect_now()
        # In this order: a turn sets its sleep and then looks who is expected.
        sleep = self._sleeps_until
        if earliest < sleep[0]:
            self._wake()
            sleep[0] = earliest  # of this sleep only: the next one is for its own turn to say

    def expect_now(self) -> None:
        """A job was stored that is due and waits: turn as soon as there is a place for it."""
        pool = self._pool
        if pool.hungry:
            return  # a claim that is to begin finds it, or whose place comes back next wakes us
        self._wanted = True
        if pool.busy >= pool.places:
            # In this order: a worker that ends between the two lines sees the flag and wakes us.
            pool.hungry = True
            if pool.busy >= pool.places:
                return
        self._wake()

    def request_cancel(self, job_id: str) -> None:
        """If the job runs here, let its task see that it should stop."""
        self._claims.request_cancel(job_id)
