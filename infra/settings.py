"""Every setting of the system, in one table: name, default, help.  Nothing else reads the environment.

Each can be given as an environment variable with the prefix `CLICKPROOF_`, for example `CLICKPROOF_PORT=9000`.
The table at the end of docs/design.md is generated from it.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.home import Home
from infra.redaction import hide, hide_whole

_NOTHING = SecretStr("")
SHORTEST_TOKEN = 16  # characters: a token that can be guessed needs no timing attack


def _long_enough(token: SecretStr) -> SecretStr:
    if 0 < len(token) < SHORTEST_TOKEN:
        raise ValueError(
            f"a token needs {SHORTEST_TOKEN} characters or more; "
            "make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


Token = Annotated[SecretStr, AfterValidator(_long_enough)]


class Settings(BaseSettings):
    """The dials.  Few on purpose: what can be derived or measured is not a setting."""

    model_config = SettingsConfigDict(env_prefix="CLICKPROOF_", extra="forbid", frozen=True, hide_input_in_errors=True)

    home: Path = Field(
        Path(".clickproof"), description="Folder that holds all state; each source, size and seed has a home of its own in it."
    )
    size: str = Field(
        "small", description="Size of the simulated market: tiny (tests), small (default) or large (10M+ impressions)."
    )
    seed: int = Field(1, ge=0, description="Seed of the simulated market and of training.")
    source: str = Field("world", description="Where events come from: world (simulated) or open-bandit (real).")
    data: Path | None = Field(None, description="Folder with a source's files, for sources that read files.")
    lake_url: SecretStr = Field(
        _NOTHING, description="URL of the lake's Delta tables; empty means the folder `lake` in the home."
    )
    online_url: SecretStr = Field(
        _NOTHING, description="Online store: empty for the embedded SQLite file, or redis://HOST:PORT."
    )
    store_timeout_ms: float = Field(20.0, gt=0, description="How long a request waits for a remote online store.")
    mlflow_url: SecretStr = Field(_NOTHING, description="MLflow tracking URI; empty means a SQLite file in the home.")
    prefect_url: SecretStr = Field(
        _NOTHING, description="API of a running Prefect server; empty starts an ephemeral one in the process."
    )
    attribution_hours: float = Field(
        24.0, gt=0, description="A click counts for an impression when it comes within this many hours."
    )
    host: str = Field("127.0.0.1", description="Address that the endpoint binds to.")
    port: int = Field(8000, ge=1, le=65535, description="Port that the endpoint binds to.")
    grpc_port: int = Field(0, ge=0, le=65535, description="Port of the gRPC door beside it; 0: none.")
    workers: int = Field(1, ge=1, le=256, description="Processes that answer requests on the port.")
    threads: int = Field(1, ge=1, description="Threads a scorer may use; one a worker process is fastest on shared cores.")
    epsilon: float = Field(
        0.05, ge=0, le=1, description="Share of requests answered in random order, so that propensities are never zero."
    )
    max_candidates: int = Field(1000, ge=1, description="Most candidate ads in one request; more is answered with 422.")
    max_body_bytes: int = Field(262_144, ge=64, description="Largest request body in bytes; larger is answered with 413.")
    micro_batch: int = Field(
        8,
        ge=1,
        le=64,
        description="Most waiting requests that are scored in one call of the model; docs/serving.md says when it pays.",
    )
    max_waiting: int = Field(256, ge=1, description="Most requests waiting for an answer in a process; more get 503.")
    max_wait_ms: float = Field(
        100.0,
        gt=0,
        description="Longest wait for an answer; who could not be answered sooner gets 503 at once, since callers give up.",
    )
    write_token: Token = Field(
        _NOTHING,
        description="Token of POST /v1/events (16 characters at least), as `Authorization: Bearer TOKEN`; "
        "empty: only this machine may write.",
    )
    rollout_token: Token = Field(
        _NOTHING,
        description="Token of /v1/rollout (16 characters at least), as `Authorization: Bearer TOKEN`; empty: it is closed.",
    )
    max_head_bytes: int = Field(
        16_384, ge=1024, description="Largest request line with headers in bytes; larger is answered with 431."
    )
    max_connections: int = Field(
        512, ge=1, description="Most connections that a server process holds; one more is answered with 503."
    )
    request_seconds: float = Field(
        10.0, gt=0, description="A client has so many seconds to send a request, and to take its answer."
    )
    allowed_hosts: str = Field(
        "",
        description="Names that servers may be asked by, with commas, besides IP addresses, localhost and the host; * for any.",
    )
    canary_grace_s: float = Field(
        300.0, gt=0, description="Seconds after which a canary without requests or latencies is rolled back."
    )
    canary_label_grace_s: float = Field(
        7200.0, gt=0, description="Seconds after which a canary without clicks, or whose champion has none, is rolled back."
    )
    live_port: int = Field(8080, ge=0, le=65535, description="Port of the control room's page; 0 takes a free one.")
    live_speed: float = Field(
        720.0, ge=0, description="Simulated seconds in a second at the start of the control room: 720 is an hour in 5 s."
    )
    live_days: int = Field(14, ge=3, le=60, description="Simulated days that the control room's monitors learn from first.")
    drill_token: Token = Field(
        _NOTHING, description="Token that injecting and healing need; empty: one is made at start and printed."
    )
    webhook_url: SecretStr = Field(
        _NOTHING, description="URL that is told of incidents by POST of JSON (http or https); empty for nobody."
    )
    log_format: Literal["text", "json"] = Field("text", description="What a server logs: text, or json (one object a line).")
    clock: Literal["lake", "system"] = Field(
        "lake", description="A server's clock: lake (the data's watermark plus elapsed time) or system."
    )

    def base(self) -> Home:
        """The home that the settings name: one folder for each source, size and seed, so that they never mix."""
        world = f"{self.source}-{self.size}-{self.seed}" if self.source == "world" else self.source
        return Home(self.home.resolve() / world)


_in_use: list[Settings] = []


def use(chosen: Settings) -> None:
    """Make these the settings of this process, which says none of their secrets; the command line does so at start."""
    for name in secret_names():
        hide(getattr(chosen, name).get_secret_value())
    hide_whole(chosen.webhook_url.get_secret_value())
    _in_use[:] = [chosen]


def secret_names() -> tuple[str, ...]:
    """The settings that nobody may read: tokens, and URLs that may hold a password."""
    return tuple(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)


def revealed(chosen: Settings) -> dict[str, str]:
    """What makes the same settings again, secrets and all: for the pipe to a process of one's own, and nowhere else."""
    values = {name: getattr(chosen, name) for name in Settings.model_fields}
    plain = {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in values.items()}
    return {name: str(value) for name, value in plain.items() if value is not None}


def settings() -> Settings:
    """The settings of this process: those given to `use`, otherwise the environment's."""
    if not _in_use:
        use(Settings())
    return _in_use[0]
