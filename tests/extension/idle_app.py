"""Another app on the same store, with nothing to do: `python idle_app.py URL`.

It ends when its input does. It must not know the tasks of the test.
"""

from __future__ import annotations

import sys

from kit import make_app


def main(url: str) -> None:
    _app, delayq = make_app(url=url)
    delayq.task(name="idle.task")(lambda: None)
    delayq.start()
    print("runs jobs", flush=True)  # noqa: T201
    sys.stdin.read()
    delayq.stop(5)
    delayq.state.close()


if __name__ == "__main__":
    main(sys.argv[1])
