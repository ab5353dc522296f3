"""What is hidden: by names, in texts that quote it, in addresses; and what that costs.

Must not know jobs or pages.
"""

from __future__ import annotations

from typing import Any

import pytest

from flask_delayq.config import REDACTED
from flask_delayq.console.redacting import HIDDEN, Redaction
from flask_delayq.texts import without_password

SECRET_NAMES = """
    password db_password PASSWORD passwd pwd user_pwd pass dbPass passphrase passcode access_key
    aws_access_key_id aws_secret_access_key private_key privateKey ssh_key encryption_key license_key
    auth X-Auth basicAuth bearer jwt credential credentials csrf csrf_token session session_id sessionid
    otp mfa_code pin cardPIN pins ssn iban my_IBAN card_number cvv cvc dsn DSN2 database_url DATABASE_URL
    connection_string webhook_url signature sig salt refresh_token Authorization Set-Cookie api_key
    X-Api-Key clientSecret
""".split()

PLAIN_NAMES = """
    user name shipping spinning author authored compass bypass_cache passenger signal assign design key
    sort_key monkey resalted passed pinned url hash id description
""".split()


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_by_its_name(name: str) -> None:
    assert Redaction(REDACTED).hides(name)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_name_that_only_looks_like_one(name: str) -> None:
    assert not Redaction(REDACTED).hides(name)


def shown(arguments: Any, value: Any) -> Any:
    redaction = Redaction(REDACTED)
    redaction.learn(arguments)
    return redaction.clean(value)


def told(arguments: Any, text: str) -> str:
    redaction = Redaction(REDACTED)
    redaction.learn(arguments)
    return redaction.text(text)


def test_a_name_beside_its_value() -> None:
    for name in ("name", "key", "header", "field"):
        given = {"headers": [{name: "X-Api-Key", "value": "k-1234"}, {name: "Host", "value": "h-1234"}]}
        assert shown(given, given) == {
            "headers": [{name: "X-Api-Key", "value": HIDDEN}, {name: "Host", "value": "h-1234"}]
        }
        assert told(given, "k-1234 h-1234") == f"{HIDDEN} h-1234"
    pairs = [["Authorization", "abcdefgh"], ["Host", "h"], ["a", "b", "c"], ["password", 5]]
    assert shown(pairs, pairs)[:3] == [["Authorization", HIDDEN], ["Host", "h"], ["a", "b", "c"]]


@pytest.mark.parametrize(
    "text, without",
    [
        ("postgres://user:hunter2pw@db/x", f"postgres://user:{HIDDEN}@db/x"),
        ("redis://:p@ss@host:6379/0 and more", f"redis://:{HIDDEN}@host:6379/0 and more"),
        ("https://ghp_abcdef@github.com/x", f"https://{HIDDEN}@github.com/x"),
        ("https://example.org/a@b?c=d:e@f", "https://example.org/a@b?c=d:e@f"),
        (
            "401 for https://h/x?page=2&api_key=abc#top",
            f"401 for https://h/x?page=2&api_key={HIDDEN}#top",
        ),
        ("sent 'Authorization: Bearer abc.def-123'", f"sent 'Authorization: Bearer {HIDDEN}'"),
        ("authorization: basic dXNlcjpwYXNz0", f"authorization: basic {HIDDEN}"),
        ("basic understanding of tokens", "basic understanding of tokens"),
    ],
)
def test_secrets_that_have_a_form(text: str, without: str) -> None:
    assert told(None, text) == without
    assert shown(None, {"x": [text]}) == {"x": [without]}


def test_a_url_is_shown_without_its_password() -> None:
    assert without_password("postgresql://me:secret@host/db") == f"postgresql://me:{HIDDEN}@host/db"
    assert without_password("sqlite:////srv/app/x.sqlite3") == "sqlite:////srv/app/x.sqlite3"


@pytest.mark.parametrize("mark", ["[...]", "\n[...]\n"])
def test_what_a_cut_left_of_a_secret_is_hidden(mark: str) -> None:
    secret = "S3CR3T" + "k" * 2000 + "-the-end"
    given = {"password": secret}
    assert told(given, f"no: {secret[:500]}{mark}") == f"no: {HIDDEN}{mark}"
    assert told(given, f"no: {secret[:4]}{mark}more") == f"no: {HIDDEN}{mark}more"
    assert told(given, f"x{mark}{secret[-300:]} was it") == f"x{mark}{HIDDEN} was it"
    assert told(given, f"{secret[:300]}{mark}{secret[-300:]}!") == f"{HIDDEN}{mark}{HIDDEN}!"
    assert told(given, f"S3C{mark}") == f"S3C{mark}"  # too short to be told from other words
    assert told(given, "S3CR3T and so on") == "S3CR3T and so on"  # not cut, so another word


def test_a_secret_that_is_part_of_the_mark_does_not_multiply() -> None:
    given = {f"password{n}": text for n, text in enumerate(("hidd", "[hidden]", "idde", "dden]"))}
    assert told(given, "hidden") == f"{HIDDEN}en"
    assert shown(given, {"a": "[hidden]" * 3}) == {"a": HIDDEN * 3}


def test_true_is_no_secret() -> None:
    assert (
        told({"session": True, "token": None, "pin": 12345}, "True None 12345") == f"True None {HIDDEN}"
    )


def test_nested_data_keeps_its_form() -> None:
    value = {"a": [1, 2.5, None, True, {"b": ["x", {"c": "y"}]}], "password": {"deep": "gone"}, "": ""}
    assert shown(None, value) == {**value, "password": HIDDEN}
    deep: Any = "end"
    for _ in range(60):
        deep = [deep]
    assert "nested more deeply" in str(shown({"password": "secret"}, deep))


def test_texts_are_searched_once_not_each_for_itself() -> None:
    # Counted, not timed: what is compiled and looked for must not grow with the number of texts.
    looked = []

    class Counting(Redaction):
        def _cleaned(self, texts: list[str]) -> list[str]:
            looked.append(len(texts))
            return super()._cleaned(texts)

    redaction = Counting(REDACTED)
    redaction.learn({f"password{n}": f"s3cret-{n:05d}" for n in range(100)})
    many = ["ab", "s3cret-00007", "s3cret-"] * 20_000
    assert redaction.clean(many) == ["ab", HIDDEN, "s3cret-"] * 20_000
    assert looked == [60_000]
