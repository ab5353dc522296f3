"""Every setting: good, bad and at its bounds; and errors that keep secrets.

Must not know Flask.
"""

from __future__ import annotations

import math
import secrets
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from flask_delayq.backends import ENGINE_SETTINGS, open_backend, options_for
from flask_delayq.config import MODES, REDACTED, Settings, url_prefix, wants_pages, with_environment
from flask_delayq.errors import ConfigurationError

TOKEN = "correct-horse-battery"
MB_1 = 1 << 20


def read(testing: bool = False, **values: Any) -> Settings:
    config = {f"DELAYQ_{key.upper()}": value for key, value in values.items()}
    return Settings.read(config, folder="/srv/app/instance", testing=testing)


def test_an_app_without_settings_runs() -> None:
    settings = read()
    assert settings == Settings(url="sqlite:////srv/app/instance/delayq.sqlite3")
    assert settings.mode == "auto" and settings.queues is None and settings.admin_token == ()


def digests(*tokens: str) -> tuple[bytes, ...]:
    return tuple(sha256(token.encode()).digest() for token in tokens)


GOOD: list[tuple[str, Any, Any]] = [
    ("url", "memory://", "memory://"),
    *(("mode", mode, mode) for mode in MODES),
    *(("workers", value, int(value)) for value in (1, 1024, "8")),
    ("queues", None, None),
    ("queues", "mail", ("mail",)),
    ("queues", "mail, reports ,mail", ("mail", "reports")),
    ("queues", ["mail", "reports"], ("mail", "reports")),
    *(("lease", value, 3.0) for value in (3, 3.0, "3", timedelta(seconds=3))),
    ("lease", 86_400, 86_400.0),
    ("drain_timeout", None, None),
    ("drain_timeout", 0, 0.0),
    ("drain_timeout", "2.5", 2.5),
    ("enqueue_timeout", 0.05, 0.05),
    ("max_pending", None, None),
    ("max_pending", 1, 1),
    ("max_pending_total", None, None),
    ("unknown_task_timeout", timedelta(days=30), 30 * 86_400.0),
    ("unknown_task_timeout", 1, 1.0),
    ("max_pending_total", 500, 500),
    ("max_payload", 64, 64),
    ("max_payload", 1 << 30, 1 << 30),
    ("max_result", "1000", 1000),
    ("retention", 0, 0.0),
    ("retention", timedelta(days=3650), 3650 * 86400.0),
    ("retention_failed", 1e8, 1e8),
    ("retention_count", None, None),
    ("retention_count", 0, 0),
    ("max_attempts", 1_000_000, 1_000_000),
    ("max_rescues", 0, 0),
    ("max_rescues", 1000, 1000),
    ("horizon", 1, 1.0),
    *(("strict_priority", value, True) for value in (True, "1", "true", "Yes", "ON")),
    *(("strict_priority", value, False) for value in (False, "0", "false", "No", "off", "")),
    ("url_prefix", "/jobs/admin-2", "/jobs/admin-2"),
    ("admin_token", None, ()),
    ("admin_token", TOKEN, digests(TOKEN)),
    ("admin_token", "a, text with, commas and blanks", digests("a, text with, commas and blanks")),
    ("admin_token", [TOKEN, "0192837465564738"], digests(TOKEN, "0192837465564738")),
    ("admin_token", "abcdefabcdefabcd", digests("abcdefabcdefabcd")),  # six letters are just enough
    *(("pages", value, value not in (False, "no")) for value in (True, "1", False, "no")),
    ("redact", "pin, iban", ("pin", "iban")),
    ("redact", [], ()),
]


@pytest.mark.parametrize(("key", "value", "expected"), GOOD, ids=str)
def test_a_value_that_fits(key: str, value: Any, expected: Any) -> None:
    got = getattr(read(**{key: value}), key)
    assert got == expected and type(got) is type(expected)


WEAK = (
    *(TOKEN + "\n", " " + TOKEN, TOKEN + "\t", [TOKEN, TOKEN + "\r\n"], TOKEN + "\u00a0"),
    *(TOKEN + "\n" + TOKEN, TOKEN + "\x00" + TOKEN),
    *(
        "x" * 16,
        "ab" * 20,
        "passwordpassword",
        "abcdeabcdeabcdea",
        "0123456789:;<=>?",
        "ponmlkjihgfedcba",
    ),
)

BAD: list[tuple[str, Any]] = [
    *(("url", value) for value in (5, b"memory://", ["memory://"])),
    *(("mode", value) for value in ("AUTO", "threads", "", None, 5, ["auto"], True)),
    *(("workers", value) for value in (0, -1, 1025, 4.0, "4.5", "four", "", True, None, math.nan, [4])),
    *(
        ("queues", value)
        for value in ("", ",", "a,,b", [], (), ["a", 5], 5, [""], "a b", ["ä"], b"a", {})
    ),
    *(("lease", value) for value in (math.nextafter(3, 0), 2.999, 86_400.001, -1, math.nan, math.inf)),
    *(
        ("lease", value)
        for value in ("nan", "inf", "1e400", "60s", "", True, None, timedelta(seconds=2))
    ),
    *(("drain_timeout", value) for value in (-0.001, -1, "x", 86_401, timedelta(days=2))),
    *(("enqueue_timeout", value) for value in (0, 0.049, 3601, None)),
    *(("max_pending", value) for value in (0, -1, 1_000_000_001, 1.5, True)),
    ("max_pending_total", 0),
    ("unknown_task_timeout", 0),
    *(("max_payload", value) for value in (63, (1 << 30) + 1, None)),
    *(("max_result", value) for value in (63, "1e6")),
    *(("retention", value) for value in (-1, None, math.inf, timedelta(days=-1))),
    *(("retention_failed", value) for value in (-0.1, "week")),
    *(("retention_count", value) for value in (-1, "all", 1.0)),
    *(("max_attempts", value) for value in (0, 1_000_001, None)),
    *(("max_rescues", value) for value in (-1, 1001)),
    *(("horizon", value) for value in (0.999, 86_401)),
    *(("strict_priority", value) for value in ("maybe", 1, 0, None, "2")),
    *(
        ("url_prefix", value)
        for value in ("", "/", "delayq", "/delayq/", None, 5, "//evil", "/a//b", "/<x>")
    ),
    *(("url_prefix", value) for value in ("/a b", "/a?b", "/a#b", "/a\n", "/\\evil", "https://x/y")),
    *(
        ("admin_token", value)
        for value in ("", TOKEN[:15], [], [TOKEN, "short"], 5, b"x" * 20, [b"x" * 20], {})
    ),
    *(("admin_token", value) for value in WEAK),
    *(("pages", value) for value in (None, 1, "maybe", [])),
    *(("redact", value) for value in (None, 5, ["a", 5], "", [""])),
    ("workers", 10**5000),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=range(len(BAD)))
def test_a_value_that_does_not_fit_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(**{key: value})
    assert caught.value.key == f"DELAYQ_{key.upper()}"
    assert str(caught.value).startswith(f"DELAYQ_{key.upper()} must ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("workers", "many", "DELAYQ_WORKERS must be a whole number from 1 to 1,024, not 'many'"),
        ("workers", 4.5, "DELAYQ_WORKERS must be a whole number from 1 to 1,024, not 4.5"),
        ("lease", "60s", "DELAYQ_LEASE must be a number of seconds from 3 to 86,400, not '60s'"),
        ("lease", None, "DELAYQ_LEASE must be a number of seconds from 3 to 86,400, not None"),
        ("pages", "maybe", "DELAYQ_PAGES must be True or False, not 'maybe'"),
        ("redact", 5, "DELAYQ_REDACT must be a string or a list of strings, not 5"),
        ("queues", "", "DELAYQ_QUEUES must be a string or a list of strings, not ''"),
        (
            "mode",
            "threads",
            "DELAYQ_MODE must be one of auto, thread, external, manual, inline, not 'threads'; "
            "did you mean 'thread'?",
        ),
        (
            "url_prefix",
            "/jobs/",
            "DELAYQ_URL_PREFIX must be a path like /delayq, without a / at its end, not '/jobs/'",
        ),
        ("url", 5, "DELAYQ_URL must be a string"),
    ],
)
def test_the_error_says_what_the_value_must_be(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(**{key: value})
    assert str(caught.value) == said


def test_every_setting_is_tried_above() -> None:
    names = {*Settings.__struct_fields__} - {"of_engines"}
    assert {key for key, *_ in GOOD} == names
    assert {key for key, *_ in BAD} == names


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("DELAYQ_WORKER", "DELAYQ_WORKERS"),
        ("DELAYQ_URI", "DELAYQ_URL"),
        ("DELAYQ_MAX_ATTEMPT", "DELAYQ_MAX_ATTEMPTS"),
        ("DELAYQ_Url", "DELAYQ_URL"),
        ("DELAYQ_", None),
        ("DELAYQ_SOMETHING_ELSE_ENTIRELY", None),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_one_meant(key: str, meant: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.read({key: "x"}, folder="/")
    assert caught.value.key == key
    assert (
        (f"did you mean {meant}?" in str(caught.value))
        if meant
        else ("did you mean" not in str(caught.value))
    )


def test_a_setting_of_one_backend_is_kept_for_it_and_no_other() -> None:
    config = {"DELAYQ_SQLITE_SYNCHRONOUS": "NORMAL", "DELAYQ_URL": "memory://"}
    settings = Settings.read(config, folder="/", engine_settings=ENGINE_SETTINGS)
    assert options_for(settings.url, settings.of_engines) == {}
    assert options_for("sqlite:///jobs.sqlite3", settings.of_engines) == {"synchronous": "NORMAL"}
    with pytest.raises(ConfigurationError, match="did you mean DELAYQ_SQLITE_SYNCHRONOUS"):
        Settings.read({"DELAYQ_SQLITE_SYNC": 1}, folder="/", engine_settings=ENGINE_SETTINGS)


@pytest.mark.parametrize("value", ["normal", "OFF", "EXTRA", None, 1])
def test_the_backend_refuses_a_value_of_its_setting_by_its_key(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="DELAYQ_SQLITE_SYNCHRONOUS must be FULL") as caught:
        open_backend("sqlite:///jobs.sqlite3", synchronous=value)
    assert caught.value.key == "DELAYQ_SQLITE_SYNCHRONOUS"


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_url_means_the_default(nothing: str | None) -> None:
    assert read(url=nothing).url == "sqlite:////srv/app/instance/delayq.sqlite3"
    assert read(testing=True, url=nothing).url == "memory://"


def test_variables_of_the_environment_count_where_the_app_says_nothing() -> None:
    environ = {"FLASK_DELAYQ_WORKERS": "8", "FLASK_DELAYQ_URL": "memory://", "FLASK_DEBUG": "1"}
    config = with_environment({"DELAYQ_URL": "sqlite:///jobs.db", "X": 1}, environ)
    assert config == {"DELAYQ_WORKERS": 8, "DELAYQ_URL": "sqlite:///jobs.db", "X": 1}
    with pytest.raises(ConfigurationError, match="did you mean DELAYQ_WORKERS"):
        Settings.read(with_environment({}, {"FLASK_DELAYQ_WORKER": "8"}), folder="/")


def test_keys_of_others_are_none_of_ours() -> None:
    config = {"SECRET_KEY": "x", "delayq_url": 5, "DELAYQX": 1, 7: 8, "DELAY": 1}
    assert Settings.read(config, folder="/", testing=True).url == "memory://"


@pytest.mark.parametrize(
    "value",
    [
        "hunter2-short",
        [TOKEN, "hunter2"],
        {"hunter2": 1},
        b"hunter2-hunter2-hunter2",
        ("hunter2-hunter2-hunter2", 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_token_is_never_in_an_error(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(admin_token=value)
    error: BaseException | None = caught.value
    assert "hunter2" not in str(error) and TOKEN not in str(error)
    assert caught.value.__suppress_context__, "a traceback would show what came before"


@pytest.mark.parametrize("value", WEAK, ids=range(len(WEAK)))
def test_a_weak_token_is_refused_with_the_command_that_makes_one(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(admin_token=value)
    said = str(caught.value)
    assert 'python -c "import secrets; print(secrets.token_urlsafe(32))"' in said
    assert any(word in said for word in ("white space", "control character", "easy to guess"))
    for token in [value] if isinstance(value, str) else value:
        assert token.strip() not in said


def test_tokens_as_the_command_makes_them_are_taken() -> None:
    for _ in range(500):
        read(admin_token=secrets.token_urlsafe(32))
        read(admin_token=secrets.token_hex(16))
        read(admin_token=secrets.token_urlsafe(12))


def test_the_text_of_settings_holds_no_secret() -> None:
    settings = read(admin_token=[TOKEN], url="postgresql://me:hunter2@host/db")
    text = repr(settings)
    assert TOKEN not in text and "hunter2" not in text
    assert TOKEN.encode() not in settings.admin_token and digests(TOKEN)[0].hex()[:8] not in text
    assert "url='postgresql://me:[hidden]@host/db'" in text and "workers=4" in text


def test_a_password_in_the_url_is_never_in_an_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(url=["postgresql://me:hunter2@host/db"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("sqlite:///jobs.db", "sqlite:////srv/app/instance/jobs.db"),
        ("sqlite:///data/jobs.db", "sqlite:////srv/app/instance/data/jobs.db"),
        ("SQLite:///jobs.db", "sqlite:////srv/app/instance/jobs.db"),
        ("sqlite:////var/lib/jobs.db", "sqlite:////var/lib/jobs.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("memory://", "memory://"),
        ("redis://host/0", "redis://host/0"),
        ("sqlite://", "sqlite://"),
    ],
)
def test_a_relative_path_begins_in_the_instance_folder(url: str, absolute: str) -> None:
    assert read(url=url).url == absolute


def test_a_tested_app_keeps_its_jobs_in_memory_unless_told_otherwise() -> None:
    assert read(testing=True).url == "memory://"
    assert read(testing=True, url="sqlite:///a.db").url == "sqlite:////srv/app/instance/a.db"


def test_the_prefix_can_be_read_alone_and_before_the_rest() -> None:
    assert url_prefix({}) == "/delayq"
    assert url_prefix({"DELAYQ_URL_PREFIX": "/jobs", "DELAYQ_WORKERS": "many"}) == "/jobs"
    assert wants_pages({}) is True
    assert wants_pages({"DELAYQ_PAGES": "false", "DELAYQ_WORKERS": "many"}) is False
    with pytest.raises(ConfigurationError):
        wants_pages({"DELAYQ_PAGES": "maybe"})
    for bad in (None, "jobs", "/jobs/", "/<int:x>"):
        with pytest.raises(ConfigurationError) as caught:
            url_prefix({"DELAYQ_URL_PREFIX": bad})
        assert caught.value.key == "DELAYQ_URL_PREFIX"


def test_secrets_are_redacted_by_default() -> None:
    assert {"password", "token", "secret", "authorization"} <= set(REDACTED)
    assert read().redact == REDACTED
