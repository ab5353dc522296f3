"""What an application's type checker sees: right calls keep their types, wrong ones are refused.

Never run. A wrong call that is accepted leaves its `type: ignore` unused, which is an error.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from flask import Flask
from typing_extensions import assert_type

from flask_delayq import DelayQ, Job, Task

app = Flask(__name__)
delayq = DelayQ()
delayq.init_app(app)


@delayq.task
def send(to: str, n: int = 1) -> bool:
    return n > 0


@delayq.task(queue="mail", max_attempts=3)
def send_with_options(to: str) -> int:
    return len(to)


@delayq.task
async def fetch(url: str) -> bytes:
    return url.encode()


@delayq.task
def nothing() -> None: ...


# A task keeps its function's signature and result.
assert_type(send("a"), bool)
assert_type(fetch("https://example.org"), bytes)
assert_type(send.enqueue("a", n=2), Job[bool])
assert_type(send.delay("a"), Job[bool])
assert_type(send.enqueue_in(3, "a"), Job[bool])
assert_type(send.enqueue_in(timedelta(minutes=1), "a", n=2), Job[bool])
assert_type(send.enqueue_at(datetime(2030, 1, 1, tzinfo=timezone.utc), "a"), Job[bool])
assert_type(send.options(queue="mail").enqueue("a"), Job[bool])
assert_type(send.options(priority="high", id="welcome-7").enqueue_in(3, "a"), Job[bool])
assert_type(send_with_options.enqueue("a"), Job[int])
assert_type(fetch.enqueue("https://example.org"), Job[bytes])
assert_type(nothing.enqueue(), Job[None])
assert_type(send.enqueue("a").result, bool)
assert_type(send.enqueue_many([("a",), ("b", 2)]), list[Job[bool]])


def any_task(task: Task[[str], int]) -> Job[int]:
    return task.enqueue("a")


any_task(send_with_options)

# Wrong arguments are refused where the call is written.
send.enqueue()  # type: ignore[call-arg]
send.enqueue(1)  # type: ignore[arg-type]
send.enqueue("a", n="2")  # type: ignore[arg-type]
send.enqueue("a", m=2)  # type: ignore[call-arg]
send.enqueue("a", queue="mail")  # type: ignore[call-arg]
send.enqueue_in(3)  # type: ignore[call-arg]
send.enqueue_in("3", "a")  # type: ignore[arg-type]
send.enqueue_at(3, "a")  # type: ignore[arg-type]
send.options(queue="mail").enqueue(1)  # type: ignore[arg-type]
send.options(colour="red")  # type: ignore[call-arg]
send.options(priority="urgent")  # type: ignore[arg-type]
any_task(send)  # type: ignore[arg-type]
delayq.task(colour="red")  # type: ignore[call-overload]
delayq.task(send, queue="mail")  # type: ignore[call-overload]
delayq.task(3)  # type: ignore[call-overload]
