"""The app's own data (deliveries, digests, orders, its inbox) in one SQLite file.
Knows no job; every method is one transaction, safe in any thread and any process."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from flask import current_app

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS digests (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, sent INTEGER NOT NULL, summary TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
    job_id TEXT PRIMARY KEY, message TEXT NOT NULL, at REAL NOT NULL,
    digest_id INTEGER REFERENCES digests);
CREATE TABLE IF NOT EXISTS inbox (
    job_id TEXT PRIMARY KEY, message TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT NOT NULL, at REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('new', 'unpaid', 'paid', 'expired')));
COMMIT;
"""

BUSY = 10.0
"""Seconds for which a transaction waits for one of another thread or process."""


class Store:
    """The app's own data.

    Each call opens its own connection. That costs 0.1 ms, and threads and forks share nothing. The
    journal is SQLite's default one, which needs no maintenance.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with self._connection() as db:
            db.executescript(SCHEMA)

    # --- deliveries and digests ------------------------------------------------------------------

    def add_delivery(self, job_id: str, message: str) -> None:
        """Note that a reminder was sent. Idempotent."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO deliveries (job_id, message, at) VALUES (?, ?, ?)",
                (job_id, message, time.time()),
            )

    def add_digest(self) -> int:
        """Write a digest of the deliveries that are in none yet; returns how many there were."""
        with self._transaction() as db:
            messages = [
                row["message"]
                for row in db.execute(
                    "SELECT message FROM deliveries WHERE digest_id IS NULL ORDER BY at"
                )
            ]
            if messages:
                digest = db.execute(
                    "INSERT INTO digests (at, sent, summary) VALUES (?, ?, ?)",
                    (time.time(), len(messages), summary_of(messages)),
                ).lastrowid
                db.execute("UPDATE deliveries SET digest_id = ? WHERE digest_id IS NULL", (digest,))
            return len(messages)

    def digests(self, limit: int = 50) -> list[sqlite3.Row]:
        """The latest digests, newest first."""
        return self._select("SELECT * FROM digests ORDER BY id DESC LIMIT ?", limit)

    # --- the inbox -------------------------------------------------------------------------------

    def receive(self, job_id: str, message: str) -> bool:
        """Store a message; False if it is stored already: a receiver of webhooks must be idempotent."""
        with self._transaction() as db:
            added = db.execute(
                "INSERT OR IGNORE INTO inbox (job_id, message, at) VALUES (?, ?, ?)",
                (job_id, message, time.time()),
            )
            return added.rowcount == 1

    def inbox(self, limit: int = 10) -> list[sqlite3.Row]:
        """The latest messages, newest first."""
        return self._select("SELECT * FROM inbox ORDER BY at DESC LIMIT ?", limit)

    # --- orders ----------------------------------------------------------------------------------

    def add_order(self, item: str) -> int:
        """Add an order as ``new``: it has a number, but nobody can pay it yet."""
        with self._transaction() as db:
            added = db.execute(
                "INSERT INTO orders (item, at, state) VALUES (?, ?, 'new')", (item, time.time())
            )
            return cast(int, added.lastrowid)

    def move_order(self, order: int, states: tuple[str, ...], to: str) -> bool:
        """Move an order to another state, if it is in one of these; returns whether it was.

        This compare-and-set decides whether payment or expiry wins: one statement, for all processes.
        """
        marks = ", ".join("?" * len(states))
        with self._transaction() as db:
            moved = db.execute(
                f"UPDATE orders SET state = ? WHERE id = ? AND state IN ({marks})", (to, order, *states)
            )
            return moved.rowcount == 1

    def order(self, order: int) -> sqlite3.Row | None:
        """The order of this number."""
        rows = self._select("SELECT * FROM orders WHERE id = ?", order)
        return rows[0] if rows else None

    def orders(self, limit: int = 50) -> list[sqlite3.Row]:
        """The latest orders, newest first."""
        return self._select("SELECT * FROM orders ORDER BY id DESC LIMIT ?", limit)

    def order_counts(self) -> dict[str, int]:
        """How many orders there are by state."""
        rows = self._select("SELECT state, count(*) AS orders FROM orders GROUP BY state")
        return {row["state"]: row["orders"] for row in rows}

    # --- connections -----------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=BUSY, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            yield db
        finally:
            db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as db:
            # The write lock is taken at the start. Otherwise two transactions that both read before they
            # write would deadlock.
            db.execute("BEGIN IMMEDIATE")
            with db:  # commits, or rolls back
                yield db

    def _select(self, statement: str, *values: object) -> list[sqlite3.Row]:
        with self._connection() as db:
            return db.execute(statement, values).fetchall()


def summary_of(messages: list[str], shown: int = 3) -> str:
    """The first few messages in one line, and how many more there were."""
    more = f" and {len(messages) - shown} more" if len(messages) > shown else ""
    return ", ".join(messages[:shown]) + more


def current_store() -> Store:
    """The store of the current app."""
    return cast(Store, current_app.extensions["remind_store"])
