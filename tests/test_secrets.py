"""Secrets stay out of logs, errors, tracebacks, answers and other programs' databases."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_server import GOOD, PROGRAM, RealServer, request, serving
from small_market import with_champion

from infra.home import Home
from infra.redaction import STARS, RedactedRecord, hide, hide_whole, redacted
from infra.settings import Settings, secret_names
from pipelines.incident_store import IncidentStore, checked_url
from pipelines.ui import arguments

PASSWORD, TOKEN, KEY = "hunter2-of-redis", "t0ken-of-the-drill", "T0042/B0042/k3y"
WRITES = "t0ken-of-those-who-write"
SECRETS = (PASSWORD, TOKEN, WRITES, KEY)
TOLD = {
    "drill_token": TOKEN,
    "write_token": WRITES,
    "webhook_url": f"https://hooks.example/services/{KEY}",
    "prefect_url": f"http://ann:{PASSWORD}@127.0.0.1:1/api",
}


@pytest.fixture(autouse=True)
def _nothing_is_hidden_for_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.redaction._hidden", set())


def tells(said: str) -> list[str]:
    """The secrets that somebody could read in a text."""
    return [secret for secret in SECRETS if secret in said]


# -- settings --------------------------------------------------------------------------------------------------------------


def test_every_setting_that_may_hold_a_secret_is_one() -> None:
    may = {name for name in Settings.model_fields if name.endswith(("url", "token", "password", "secret", "key"))}
    assert may == set(secret_names())


def test_settings_do_not_tell_their_secrets(tmp_path: Path) -> None:
    """Prefect keeps the parameters of flows as JSON."""
    chosen = Settings(home=tmp_path, **TOLD)
    said = [repr(chosen), str(chosen), f"{chosen}", chosen.model_dump_json(), repr(chosen.model_dump()), str(vars(chosen))]
    assert not tells(" ".join(said))
    assert chosen.drill_token.get_secret_value() == TOKEN


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="16 characters") as refused:
        Settings(drill_token="s3same-0pen")
    assert "s3same-0pen" not in str(refused.value)


def test_the_address_of_mlflow_is_no_argument_that_all_users_can_read(tmp_path: Path) -> None:
    chosen = Settings(home=tmp_path, mlflow_url=f"http://ann:{PASSWORD}@127.0.0.1:1")
    assert not tells(" ".join(arguments(chosen, "mlflow")))


# -- what is said ----------------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=4, max_size=30)


@given(secret=WORDS, before=st.text(), after=st.text())
def test_a_hidden_token_is_in_no_text(secret: str, before: str, after: str) -> None:
    hide(secret)
    assert secret not in redacted(f"{before}{secret}{after}{secret}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("redis://ann:pass@host:6379/0 refused", f"redis://{STARS}@host:6379/0 refused"),
        ("http://:pass@host, http://ann@host", f"http://{STARS}@host, http://{STARS}@host"),
        ("ann@example.org wrote to http://host/a@b", "ann@example.org wrote to http://host/a@b"),
        ("nothing to see at redis://host:6379", "nothing to see at redis://host:6379"),
    ],
)
def test_a_login_in_any_url_is_left_out(text: str, said: str) -> None:
    assert redacted(text) == said


def test_of_a_url_the_password_and_the_query_are_hidden_and_of_a_webhook_all_but_the_host() -> None:
    hide("abfs://lake@store.example/x?sig=s1gn4ture%2B", "redis://ann:p%40ssw0rd@host:1")
    hide_whole("https://hooks.example/services/k3y")
    said = redacted("sig=s1gn4ture%2B s1gn4ture+ p%40ssw0rd p@ssw0rd https://hooks.example/services/k3y")
    assert said == f"{STARS} s1gn4ture+ {STARS} {STARS} https://hooks.example{STARS}"


def test_a_record_is_redacted_with_its_arguments_and_its_traceback() -> None:
    hide(TOKEN)
    try:
        raise ValueError(f"not {TOKEN}")
    except ValueError:
        record = RedactedRecord("x", logging.ERROR, "file", 1, "%s is %d", (TOKEN, 3), sys.exc_info())
    said = logging.Formatter().format(record)
    assert not tells(said)
    assert "is 3" in said
    assert "ValueError: not ***" in said


GUARDED = f"""
import logging, sys, threading
from infra.redaction import guard, hide
hide({TOKEN!r})
guard()
logging.getLogger("someone.else").warning("a token: %s", {TOKEN!r})
def fail():
    raise ValueError("of a thread: " + {TOKEN!r})
thread = threading.Thread(target=fail)
thread.start()
thread.join()
raise ValueError("redis://ann:{PASSWORD}@host and " + {TOKEN!r})
"""


def test_a_process_says_no_secret_when_it_logs_or_ends_in_an_error() -> None:
    program = GUARDED.replace(repr(TOKEN), "''.join(" + repr(list(TOKEN)) + ")")  # a traceback shows the lines of a program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for what in ("a token: ***", "ValueError: of a thread: ***", "ValueError: redis://***@host and ***"):
        assert what in done.stderr
    assert not tells(done.stderr)


def test_the_webhook_is_called_by_its_host_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = IncidentStore(Home(tmp_path), f"http://ann:{PASSWORD}@127.0.0.1:1/services/{KEY}")
    known = {"number": 1, "state": "new", "class": None, "subject": "x", "new_normal": False, "opened_us": 0}
    store.record([known], 0)
    assert "the webhook at 127.0.0.1 was not told" in caplog.text
    assert not tells(caplog.text)
    with pytest.raises(Exception, match="must begin with http") as refused:
        checked_url(f"ftp://ann:{PASSWORD}@host/{KEY}")
    assert not tells(str(refused.value))


# -- what a start says -----------------------------------------------------------------------------------------------------


def started(*arguments: str, home: Path, **settings: str) -> str:
    """Everything that a command says which can't be carried out with these settings."""
    told = {f"CLICKPROOF_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-c", PROGRAM, *arguments, "--size", "tiny", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **told}, timeout=120, check=False)
    assert done.returncode in (1, 2), done
    return done.stdout + done.stderr


def test_a_wrong_setting_is_named_and_a_secret_one_is_not_shown(tmp_path: Path) -> None:
    said = started("serve", home=tmp_path, **{**TOLD, "drill_token": "s3same-0pen", "port": "none"})
    assert "drill_token is ***" in said
    assert "port is 'none'" in said
    assert "s3same-0pen" not in said
    assert not tells(said)


def test_a_command_that_fails_does_not_show_where_it_wanted_to_connect(market: Home) -> None:
    said = started("materialize", home=market.root.parent, **TOLD)
    assert "Failed to reach API at" in said  # Prefect's own words
    assert not tells(said)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return with_champion(Settings(home=tmp_path_factory.mktemp("state"), size="tiny").base())


def everything(server: RealServer) -> str:
    """What a server answers to those who ask about it, and what it logs."""
    said = [server.send(request("GET", path)) for path in ("/readyz", "/v1/model", "/metrics", "/openapi.json", "/healthz")]
    said += [server.rank(GOOD), server.rank(b"{"), server.send(b"junk\r\n\r\n")]
    answers = [f"{each.headers} {each.body.decode()}" for each in said if each is not None]
    assert len(answers) == len(said)
    return "\n".join([*answers, server.log.read_text()])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_tells_its_secrets_to_nobody(market: Home, tmp_path: Path, workers: int) -> None:
    with serving(market.root.parent, tmp_path / "log", workers=workers, **TOLD) as server:
        said = everything(server)
    assert not tells(said + server.log.read_text())


WRONG = {
    "no such store": ({"online_url": f"postgres://ann:{PASSWORD}@host/db"}, "unknown online store"),
    "no Redis there": ({"online_url": f"redis://ann:{PASSWORD}@127.0.0.1:1"}, "127.0.0.1:1"),
    "no MLflow there": ({"mlflow_url": f"http://ann:{PASSWORD}@127.0.0.1:1"}, "127.0.0.1"),
}


@pytest.mark.parametrize(("settings", "why"), WRONG.values(), ids=WRONG)
def test_a_server_that_cannot_load_says_why_without_the_password(
    market: Home, tmp_path: Path, settings: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with serving(market.root.parent, tmp_path / "log", status=503, workers=2, **{**TOLD, **settings}) as server:
        said = everything(server)
    assert why in said
    assert not tells(said + server.log.read_text())
