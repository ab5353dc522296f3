"""The app in this process, with a clock that is moved by hand: what is due runs when it is drained.

These tests must not wait for anything."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app
from example_app.store import Store, summary_of
from example_app.tasks import build_report, delayq, write_digest
from example_app.tests.receiver import Receiver
from flask_delayq.testing import FakeClock

HTML = {"Accept": "text/html"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(tmp_path: Path, clock: FakeClock) -> Iterator[Flask]:
    app = create_app({"TESTING": True, "REMIND_ROW_SECONDS": 0}, instance_path=str(tmp_path))
    with app.app_context():
        delayq.state.clock = clock
        yield app
        delayq.state.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def remind(client: FlaskClient, url: str, seconds: float = 30, **headers: str) -> dict[str, object]:
    body = {"message": "tea", "seconds": seconds, "webhook": url}
    answer = client.post("/reminders", json=body, headers=headers)
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json)


# --- reminders -------------------------------------------------------------------------------------


def test_a_reminder_is_sent_when_it_is_due(
    client: FlaskClient, clock: FakeClock, receiver: Receiver
) -> None:
    reminder = remind(client, receiver.url, 30)
    assert reminder["state"] == "scheduled"
    clock.advance(29.999)
    assert delayq.drain() == []
    clock.advance(0.001)
    delayq.drain()
    (delivery,) = receiver.deliveries
    assert delivery.body == {"id": reminder["id"], "message": "tea"}
    assert delivery.key == reminder["id"]
    assert client.get(f"/reminders/{reminder['id']}").json["state"] == "completed"


def test_a_client_may_repeat_itself(client: FlaskClient, receiver: Receiver) -> None:
    key = {"Idempotency-Key": "tea-1"}
    body = {"message": "tea", "seconds": 0, "webhook": receiver.url}
    first = client.post("/reminders", json=body, headers=key)
    again = client.post("/reminders", json=body, headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json["id"] == again.json["id"] == "remind-tea-1"
    other = client.post("/reminders", json=body | {"message": "cake"}, headers=key)
    assert other.status_code == 409
    delayq.drain()
    assert receiver.messages == ["tea"]


def test_a_reminder_can_be_cancelled(client: FlaskClient, clock: FakeClock, receiver: Receiver) -> None:
    reminder = remind(client, receiver.url, 30)
    answer = client.post(f"/reminders/{reminder['id']}/cancel")
    assert answer.json["state"] == "cancelled"
    clock.advance(31)
    delayq.drain()
    assert receiver.deliveries == []


def test_a_server_error_is_tried_again_after_a_pause(
    client: FlaskClient, clock: FakeClock, receiver: Receiver
) -> None:
    receiver.status = 503
    reminder = remind(client, receiver.url, 0)
    delayq.drain()
    now = client.get(f"/reminders/{reminder['id']}").json
    assert (now["state"], now["attempt"]) == ("retrying", 1)
    assert "503" in now["error"]
    receiver.status = 204
    clock.advance(1.0)  # the longest first pause
    delayq.drain()
    now = client.get(f"/reminders/{reminder['id']}").json
    assert (now["state"], now["attempt"]) == ("completed", 2)
    assert len(receiver.deliveries) == 2


def test_nobody_answers_for_ever(client: FlaskClient, clock: FakeClock, receiver: Receiver) -> None:
    receiver.status = 500
    reminder = remind(client, receiver.url, 0)
    for _ in range(10):
        delayq.drain()
        clock.advance(60)
    assert client.get(f"/reminders/{reminder['id']}").json["state"] == "failed"
    assert len(receiver.deliveries) == 8


@pytest.mark.parametrize("status", [400, 404, 410, 302])
def test_a_refusal_is_final(client: FlaskClient, receiver: Receiver, status: int) -> None:
    receiver.status = status
    reminder = remind(client, receiver.url, 0)
    delayq.drain()
    now = client.get(f"/reminders/{reminder['id']}").json
    assert now["state"] == "cancelled"
    assert str(status) in now["error"]
    assert len(receiver.deliveries) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost.example.com/",
        "http://localhost@example.com/",
        "http://[::1]/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX-Evil: 1",
        "http://127.0.0.1/é",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "//127.0.0.1/",
        "http://",
        "http://[",
        "127.0.0.1",
    ],
)
def test_only_named_hosts_are_called(client: FlaskClient, url: str) -> None:
    answer = client.post("/reminders", json={"message": "tea", "seconds": 0, "webhook": url})
    assert answer.status_code == 400, answer.text
    assert delayq.counts()["ready"] == 0


def test_a_host_that_was_taken_off_the_list_is_not_called(
    app: Flask, client: FlaskClient, receiver: Receiver
) -> None:
    reminder = remind(client, receiver.url, 0)
    app.config["REMIND_ALLOWED_HOSTS"] = "hooks.example.com, 127.0.0.10"
    delayq.drain()
    assert client.get(f"/reminders/{reminder['id']}").json["state"] == "cancelled"
    assert receiver.deliveries == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"message": " "},
        {"message": 7},
        {"message": "x" * 1001},
        {"message": "\ud800"},
        {"seconds": -1},
        {"seconds": "nan"},
        {"seconds": "soon"},
        {"seconds": None},
        {"seconds": [1]},
        {"seconds": 1e300},
        {"seconds": 10**400},
        {"webhook": None},
        {"key": "no spaces"},
        {"key": "x" * 200},
    ],
)
def test_what_does_not_fit_is_refused(client: FlaskClient, wrong: dict[str, object]) -> None:
    body = {"message": "tea", "seconds": 1, "webhook": "http://127.0.0.1/"} | wrong
    answer = client.post("/reminders", json=body)
    assert answer.status_code == 400
    assert answer.json["error"]
    assert sum(delayq.counts().values()) == 0


@pytest.mark.parametrize("body", ["[]", "7", "{", '"tea"'])
def test_what_is_no_object_is_refused(client: FlaskClient, body: str) -> None:
    answer = client.post("/reminders", data=body, content_type="application/json")
    assert answer.status_code == 400


def test_publish_is_the_short_form(client: FlaskClient, clock: FakeClock, receiver: Receiver) -> None:
    answer = client.post("/publish", json={"msg": "tea", "seconds": 5, "webhook": receiver.url})
    assert answer.status_code == 202
    clock.advance(5)
    delayq.drain()
    assert receiver.messages == ["tea"]


def test_publish_goes_to_the_own_inbox_unless_told(client: FlaskClient) -> None:
    answer = client.post("/publish", json={"msg": "tea", "seconds": 5})
    assert answer.json["webhook"] == "http://localhost/inbox"


def test_the_inbox_knows_a_repetition(client: FlaskClient) -> None:
    for _ in range(2):
        assert client.post("/inbox", json={"id": "7", "message": "tea"}).status_code == 204
    assert client.get("/").text.count("<li>tea") == 1


def test_other_sites_cannot_press_buttons(client: FlaskClient) -> None:
    order = {"item": "bread"}
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 201), ("none", 201)):
        answer = client.post("/orders", data=order, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status


def test_one_task_cannot_be_reached_by_the_routes_of_another(client: FlaskClient) -> None:
    order = client.post("/orders", json={"item": "bread"}).json
    assert client.get(f"/reminders/{order['expiry_job']}").status_code == 404
    assert client.post(f"/reminders/{order['expiry_job']}/cancel").status_code == 404
    assert delayq.get(order["expiry_job"]).state == "scheduled"


# --- digests ---------------------------------------------------------------------------------------


def test_a_digest_sums_up_what_was_sent_since_the_last_one(
    client: FlaskClient, clock: FakeClock, receiver: Receiver
) -> None:
    delayq.drain()  # from now on the schedule is known
    for seconds in (1, 2):
        remind(client, receiver.url, seconds)
    clock.advance(10)
    delayq.drain()
    clock.advance(60)
    delayq.drain()
    page = client.get("/digests", headers=HTML).text
    assert re.search(r">2</td><td[^>]*>tea, tea</td>", page)
    clock.advance(60)
    delayq.drain()
    assert client.get("/digests", headers=HTML).text == page, "nothing was sent, so none was written"
    digests = delayq.jobs(task=write_digest.name)
    assert [job.refresh().result for job in reversed(digests)] == [2, 0]


def test_a_delivery_is_in_one_digest_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "remind.sqlite3")
    store.add_delivery("a", "tea")
    assert store.add_digest() == 1
    store.add_delivery("a", "tea")  # the job was repeated after a crash
    assert store.add_digest() == 0


def test_digests_of_several_processes_count_everything_once(tmp_path: Path) -> None:
    def deliver_and_sum_up(n: int) -> int:
        store = Store(tmp_path / "remind.sqlite3")  # one each, as processes have
        start.wait()
        total = 0
        for i in range(20):
            store.add_delivery(f"{n}-{i}", "tea")
            total += store.add_digest()
        return total

    start = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(deliver_and_sum_up, range(8))) == 160


def test_a_summary_stays_short() -> None:
    assert summary_of(["a", "b", "c"]) == "a, b, c"
    assert summary_of(["a", "b", "c", "d"]) == "a, b, c and 1 more"


# --- orders ----------------------------------------------------------------------------------------


def test_an_unpaid_order_expires_at_its_time(client: FlaskClient, clock: FakeClock) -> None:
    order = client.post("/orders", json={"item": "bread", "seconds": 10}).json
    clock.advance(9.999)
    delayq.drain()
    assert client.get(f"/orders/{order['id']}").json["state"] == "unpaid"
    clock.advance(0.001)
    delayq.drain()
    assert client.get(f"/orders/{order['id']}").json["state"] == "expired"
    assert client.post(f"/orders/{order['id']}/pay").status_code == 409


def test_paying_cancels_the_expiry(client: FlaskClient, clock: FakeClock) -> None:
    order = client.post("/orders", json={"item": "bread"}).json
    assert client.post(f"/orders/{order['id']}/pay").json["state"] == "paid"
    assert delayq.get(f"order-{order['id']}-expire").state == "cancelled"
    clock.advance(60)
    delayq.drain()
    assert client.get(f"/orders/{order['id']}").json["state"] == "paid"
    assert client.post(f"/orders/{order['id']}/pay").status_code == 409


def test_payment_and_expiry_cannot_both_win(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "remind.sqlite3") for _ in range(8)]
    orders = [stores[0].add_order("bread") for _ in range(20)]
    wins = []

    def race(store: Store, to: str) -> None:
        for order in orders:
            start.wait()
            if store.move_order(order, ("new",), to):
                wins.append((order, to))

    start = threading.Barrier(len(stores))
    with ThreadPoolExecutor(len(stores)) as pool:
        list(pool.map(race, stores, ["paid", "expired"] * 4))
    assert sorted(order for order, _ in wins) == orders, "one winner for each"
    assert [(order, stores[0].order(order)["state"]) for order, _ in wins] == wins


def test_there_is_no_such_order(client: FlaskClient) -> None:
    assert client.get("/orders/1").status_code == 404
    assert client.post("/orders/1/pay").status_code == 404
    assert client.get("/orders/99999999999999999999").status_code == 404


# --- reports ---------------------------------------------------------------------------------------


def test_a_report_counts_the_orders(client: FlaskClient) -> None:
    client.post("/orders", json={"item": "bread"})
    report = client.post("/reports", json={"rows": 3}).json
    delayq.drain()
    now = client.get(f"/reports/{report['id']}/progress").json
    assert (now["state"], now["done"], now["total"]) == ("completed", 3, 3)
    assert now["result"] == {"rows": 3, "orders": {"unpaid": 1}}


def test_a_waiting_report_can_be_cancelled(client: FlaskClient) -> None:
    report = client.post("/reports", json={"rows": 3}).json
    assert client.post(f"/reports/{report['id']}/cancel").json["state"] == "cancelled"
    assert delayq.drain() == []


@pytest.mark.parametrize("rows", [0, -1, 10_001, "many"])
def test_a_report_has_bounds(client: FlaskClient, rows: object) -> None:
    assert client.post("/reports", json={"rows": rows}).status_code == 400
    assert delayq.jobs(task=build_report.name) == []


# --- pages -----------------------------------------------------------------------------------------


def test_forms_lead_back_to_their_page(client: FlaskClient, receiver: Receiver) -> None:
    form = {"message": "<b>tea</b>", "seconds": "10", "webhook": receiver.url, "key": "1"}
    for _ in range(2):  # a double click
        answer = client.post("/reminders", data=form, headers=HTML)
        assert (answer.status_code, answer.location) == (303, "/")
    page = client.get("/", headers=HTML).text
    assert page.count("&lt;b&gt;tea&lt;/b&gt;<small>") == 1
    assert "/reminders/remind-1/cancel" in page
    answer = client.post("/orders", data={"item": "bread", "seconds": "5"}, headers=HTML)
    assert (answer.status_code, answer.location) == (303, "/orders")
    assert "/orders/1/pay" in client.get("/orders", headers=HTML).text
    answer = client.post("/reports", data={"rows": "5"}, headers=HTML)
    page = client.get(answer.location, headers=HTML).text
    assert 'http-equiv="refresh"' in page, "it moves without scripts too"
    delayq.drain()
    page = client.get(answer.location, headers=HTML).text
    assert "completed" in page
    assert 'http-equiv="refresh"' not in page
    assert "5 rows" in client.get("/reports", headers=HTML).text


def test_a_person_is_told_in_a_page(client: FlaskClient) -> None:
    answer = client.post("/reports", data={"rows": "0"}, headers=HTML)
    assert answer.status_code == 400
    assert "<p>rows must be a number from 1 to 10000" in answer.text


def test_a_visitor_may_try_the_tasks_that_need_nothing_of_the_app(
    app: Flask, client: FlaskClient
) -> None:
    offered = {task.name.rpartition(".")[2] for task in delayq.tasks if task.declared.produce}
    assert offered == {"send_reminder", "write_digest", "build_report"}  # an order must exist
    delayq.tasks.get("example_app.tasks.build_report").enqueue(rows=3)  # by name, as the form gives it
    assert "3 rows" in client.get("/reports", headers=HTML).text
