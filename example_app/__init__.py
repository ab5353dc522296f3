"""Remind me: a small service that uses Flask-DelayQ. This module is the application factory.
Knows no route and no task by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from .store import Store
from .tasks import delayq
from .views import pages


def create_app(config: Mapping[str, Any] | None = None, instance_path: str | None = None) -> Flask:
    """The app.

    Settings come from these defaults, then from ``FLASK_*`` variables (``FLASK_DELAYQ_WORKERS=8``),
    then from ``config``.

    :param instance_path: the folder of both data files; default: the variable ``REMIND_INSTANCE``.
    """
    app = Flask(__name__, instance_path=instance_path or os.environ.get("REMIND_INSTANCE"))
    app.config.from_mapping(
        MAX_CONTENT_LENGTH=64 * 1024,
        REMIND_ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        REMIND_ORDER_SECONDS=30.0,
        REMIND_ROW_SECONDS=0.1,
    )
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    # The job store is another file beside it; the app never touches that one.
    app.extensions["remind_store"] = Store(Path(app.instance_path) / "remind.sqlite3")
    delayq.init_app(app)
    app.register_blueprint(pages)
    return app
