"""A fresh interpreter whose first requests and `start()` come at once: `python first_use.py URL`.

It must not import ahead what the requests import: there the threads give each other turns.
"""

from __future__ import annotations

import sys
import threading

from flask import Flask

from flask_delayq import DelayQ

REQUESTS = 16


def main(url: str) -> None:
    app = Flask("first_use")
    app.config["DELAYQ_URL"] = url
    delayq = DelayQ(app)
    state = app.extensions["delayq"].state
    ran: list[int] = []
    task = delayq.task(name="note")(ran.append)
    acknowledged: list[int] = []
    parts: list[tuple[object, ...]] = []  # kept, so that no two have the same id one after another
    ready = threading.Barrier(REQUESTS + 1)

    @app.get("/<int:n>")
    def enqueue(n: int) -> str:
        task.enqueue(n)
        acknowledged.append(n)
        return "stored"

    clients = [app.test_client() for _ in range(REQUESTS)]

    def request(n: int) -> None:
        ready.wait()
        assert clients[n].get(f"/{n}").status_code == 200
        parts.append((state.settings, state.backend, state.client, state.executor))

    threads = [threading.Thread(target=request, args=(n,)) for n in range(REQUESTS)]
    for thread in threads:
        thread.start()
    ready.wait()
    delayq.start()
    for thread in threads:
        thread.join()
    all_ran = delayq.join(5)
    made = [len({id(part) for part in kind}) for kind in zip(*parts, strict=True)]
    print("made", *made, "acknowledged", len(acknowledged), "ran", len(ran))  # noqa: T201
    runs_here = state.client.runner is state.supervisor.dispatcher
    delayq.stop(5)
    state.close()
    right = all_ran and runs_here and sorted(ran) == sorted(acknowledged) == list(range(REQUESTS))
    sys.exit(0 if right and made == [1, 1, 1, 1] else 1)


if __name__ == "__main__":
    main(sys.argv[1])
