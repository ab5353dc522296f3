"""The service as it is: a real server process, a real store, real webhooks, and ``kill -9``.

These tests must not know how jobs are stored or run."""

from __future__ import annotations

import logging
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from example_app.tests.receiver import Receiver, receiving
from example_app.tests.service import Service, serving
from pace import quiet_seconds
from waiting import wait_until

_log = logging.getLogger(__name__)  # figures: pytest --log-cli-level=INFO


def test_reminders_arrive_when_they_are_due(service: Service, receiver: Receiver) -> None:
    due = {}
    for n in range(20):
        reminder = service.remind(f"tea {n}", 3 + n / 20, receiver.url)
        assert reminder["state"] == "scheduled"
        due[reminder["id"]] = reminder["due"]
    wait_until(lambda: len(receiver.deliveries) == 20, 15, "20 reminders arrived")
    late = [delivery.at - due[delivery.key] for delivery in receiver.deliveries]
    apart = time.time() - time.monotonic()
    quiet = [quiet_seconds(due[d.key] - apart, d.at - apart) for d in receiver.deliveries]
    _log.info(
        "reminders after 3 s: %.1f ms late (median), %.1f ms (worst), none early",
        1000 * statistics.median(late),
        1000 * max(late),
    )
    assert min(late) >= 0
    assert max(quiet) < 0.5
    assert {delivery.key for delivery in receiver.deliveries} == set(due)


def test_a_webhook_that_is_down_gets_its_reminder_when_it_is_back(service: Service, port: int) -> None:
    reminder = service.remind("tea", 0, f"http://127.0.0.1:{port}/hook")

    def now() -> dict[str, object]:
        return service.look(f"/reminders/{reminder['id']}")

    wait_until(lambda: now()["state"] == "retrying", 10, "the first run failed")
    assert "refused" in str(now()["error"])
    with receiving(port) as receiver:
        receiver.status = 503
        wait_until(lambda: receiver.deliveries, 10, "the next try reached it, and was turned away")
        receiver.status = 204
        wait_until(lambda: now()["state"] == "completed", 10, "the reminder was taken")
        assert {delivery.key for delivery in receiver.deliveries} == {reminder["id"]}
        assert len(receiver.deliveries) == 2
        assert now()["attempt"] in (3, 4)  # a run may have fallen between the two receivers


def test_a_killed_server_loses_no_reminder(tmp_path: Path, receiver: Receiver) -> None:
    with serving(tmp_path) as service:
        service.remind("far away", 86_400, receiver.url)
        began = time.monotonic()
        for n in range(5):
            service.remind(f"far away {n}", 86_400, receiver.url)
        soon = 1 + 50 * (time.monotonic() - began)  # none of them before the kill, on any machine
        later = [service.remind(f"later {n}", 2 * soon, receiver.url) for n in range(50)]
        sooner = [service.remind(f"sooner {n}", soon, receiver.url) for n in range(50)]
        service.program.kill()
    assert receiver.deliveries == []
    due = {reminder["id"]: reminder["due"] for reminder in sooner + later}
    # While nobody serves, the first half becomes due.
    wait_until(lambda: time.time() > max(r["due"] for r in sooner), soon + 5, "half are overdue")
    with serving(tmp_path) as service:
        wait_until(lambda: len(receiver.deliveries) >= 100, 2 * soon + 30, "100 reminders arrived")
        for job_id in due:
            path = f"/reminders/{job_id}"
            wait_until(lambda path=path: service.look(path)["state"] == "completed", what=path)
    assert sorted(delivery.key for delivery in receiver.deliveries) == sorted(due), "each of them once"
    assert [d.body for d in receiver.deliveries if d.at < due[d.key]] == [], "none early"


def test_an_unpaid_order_expires_and_a_paid_one_does_not(service: Service) -> None:
    began = time.monotonic()
    _, unpaid = service.ask("POST", "/orders", {"item": "bread", "seconds": 1})
    seconds = 1 + 20 * (time.monotonic() - began)  # enough to pay in, on any machine
    _, paid = service.ask("POST", "/orders", {"item": "cake", "seconds": seconds})
    assert unpaid["state"] == paid["state"] == "unpaid"
    assert unpaid["expiry_job"] == f"order-{unpaid['id']}-expire"
    assert service.ask("POST", f"/orders/{paid['id']}/pay")[1]["state"] == "paid"

    def state(order: int) -> str:
        return str(service.look(f"/orders/{order}")["state"])

    wait_until(lambda: state(unpaid["id"]) == "expired", 10, "the unpaid order expired")
    # Ordered later and expired: so the moment of the paid one has passed as well.
    _, later = service.ask("POST", "/orders", {"item": "salt", "seconds": seconds})
    wait_until(lambda: state(later["id"]) == "expired", seconds + 10, "a later order expired")
    assert state(paid["id"]) == "paid"
    status, refusal = service.ask("POST", f"/orders/{unpaid['id']}/pay")
    assert (status, refusal["error"]) == (409, f"order {unpaid['id']} cannot be paid: it is expired")


def test_a_report_tells_how_far_it_is_and_ends(service: Service) -> None:
    status, report = service.ask("POST", "/reports", {"rows": 20})
    assert status == 202
    seen = set()

    def done() -> bool:
        now = service.look(f"/reports/{report['id']}/progress")
        seen.add(now["done"])
        return bool(now["state"] == "completed")

    wait_until(done, 15, "the report is complete")
    assert len(seen) > 5, "the bar moved"
    assert max(seen) == 20
    now = service.look(f"/reports/{report['id']}/progress")
    assert now["result"] == {"rows": 20, "orders": {}}


def test_a_running_report_stops_when_it_is_cancelled(service: Service) -> None:
    _, report = service.ask("POST", "/reports", {"rows": 5000})

    def now() -> dict[str, object]:
        return service.look(f"/reports/{report['id']}/progress")

    wait_until(lambda: now()["done"], 10, "the report is under way")
    asked = service.ask("POST", f"/reports/{report['id']}/cancel")[1]
    assert (asked["state"], asked["stopping"]) == ("running", True)
    wait_until(lambda: now()["state"] == "cancelled", 5, "the report stopped")
    assert "of 5000 rows" in str(now()["error"])


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_lines_of_the_readme_fit_any_port(service: Service) -> None:
    text = Path(__file__).parents[1].joinpath("README.md").read_text("utf-8")
    (given,) = re.findall(r"^    at=(\S+)", text, re.MULTILINE)
    assert text.count(given) == 2, "the port is said where the demo is started, and in one more place"
    block = re.search(r"^    at=.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = block[0].replace(given, f"http://127.0.0.1:{service.program.port}")
    ran = subprocess.run(["sh", "-ec", lines], capture_output=True, text=True, timeout=60)
    assert re.findall(r"^HTTP/1.1 (\d+)", ran.stdout, re.MULTILINE) == ["202", "202", "200", "200"]
    assert service.look("/reminders/remind-bread-1")["state"] == "cancelled"
