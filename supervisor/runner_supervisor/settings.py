"""Every setting, its type, default and meaning. Command line > environment RUNNER_* > TOML file > default.

docs/configuration.md is generated from this class.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from runner_supervisor.engine_flags import TAKEN_OVER, as_settings, split
from runner_supervisor.errors import ConfigError

APP = "runner-supervisor"
ENV_PREFIX = "RUNNER_"

FOREIGN_ENV = frozenset(
    ENV_PREFIX + name
    for name in (
        "ARCH", "DEBUG", "ENVIRONMENT", "NAME", "OS", "PERFLOG", "TEMP", "TOOL_CACHE", "TRACKING_ID", "USER",
        "WORKSPACE",
    )
)  # fmt: skip
"""RUNNER_* variables that GitHub Actions sets in every job; they are not ours to complain about."""

OWN_ENV = frozenset(ENV_PREFIX + name for name in ("CONFIG", "CACHE_DIR", "COMPILE"))
"""RUNNER_* variables read elsewhere: the settings file, the builder's cache folder, how to install it."""


ORIGIN = re.compile(r"https?://[a-z0-9.\-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?")

OWN_PATHS = frozenset({"", "admin", "dashboard", "health", "metrics", "playground"})
"""What the paths begin with that the front answers itself."""

LISTS = ("open_paths", "allowed_hosts", "cors_origins", "trusted_proxies")
"""Settings that the environment gives separated by commas."""


LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(BaseSettings):
    """One run's settings, validated and frozen."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    model: Path | None = Field(None, description="GGUF file to serve. None: the demo model that comes along.")
    host: str = Field("127.0.0.1", description="Address to listen on. Any but loopback needs API keys.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port to listen on. 0 takes a free one.")
    engine_args: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further llama-server flags; in the environment, quoted as for a shell."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Keys that clients may use; in the environment, separated by commas."
    )
    api_keys_file: Path | None = Field(
        None, description="File with further keys, one on a line, as llama-server and container secrets have them."
    )
    insecure_no_auth: bool = Field(
        False, description="Let anyone who can reach the address in, whatever the address, while there are no keys."
    )
    open_paths: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Paths of llama-server's that need an admin key, opened to every inference key; "
        "in the environment, separated by commas.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host names that requests may be addressed to, beside loopback ones on a loopback address. "
        "None on another address: any. In the environment, separated by commas.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins (https://host[:port]) whose pages may use the API from a browser, or *; "
        "in the environment, separated by commas.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks of proxies whose X-Forwarded-For is believed; "
        "in the environment, separated by commas.",
    )
    tls_cert: Path | None = Field(None, description="PEM file with the certificate chain; makes the address HTTPS.")
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key.")
    limits_url: SecretStr | None = Field(
        None, description="redis://[user:password@]host[:port][/db] that shares keys' limits between supervisors."
    )
    audit: bool = Field(True, description="Keep an audit log: who asked for what, when, how much; no content.")
    log_content: bool = Field(False, description="Write requests and answers, whole, to `content_log`.")
    content_log: Path | None = Field(None, description="File for `log_content`.")
    state_dir: Path = Field(
        default_factory=lambda: platformdirs.user_state_path(APP),
        description="Folder for keys, logs and the run folder. One supervisor at a time.",
    )
    load_timeout_s: float = Field(
        120.0,
        gt=0,
        description="How long a load may show no progress (log lines, memory, processor time), in seconds.",
    )
    stall_timeout_s: float = Field(
        60.0, gt=0, description="How long a llama-server with work to do may show no progress, in seconds."
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="How long requests in flight may take to finish after TERM, in seconds."
    )
    stop_grace_s: float = Field(
        10.0, ge=0, description="How long llama-server may take from TERM to its end before KILL, in seconds."
    )
    breaker_deaths: int = Field(
        8, ge=1, description="How many times llama-server may die within `breaker_window_s` before it is given up."
    )
    breaker_window_s: float = Field(120.0, gt=0, description="The time in which its deaths are counted, in seconds.")
    breaker_cooldown_s: float = Field(
        300.0, gt=0, description="How long it stays given up before one more start is tried, in seconds."
    )
    backoff_cap_s: float = Field(30.0, gt=0, description="Longest wait before a restart, in seconds.")
    force: bool = Field(False, description="Start although the model is estimated not to fit into memory.")
    allow_cpu: bool = Field(
        False, description="Start a llama-server built for GPUs that sees none: it computes on the processor."
    )
    floor_context: int = Field(
        2048, ge=256, description="Least context, in tokens, that is gone down to after memory ran out."
    )
    floor_gpu_layers: int = Field(
        0, ge=0, description="Fewest layers on the GPU that are gone down to after memory ran out."
    )
    max_body_bytes: int = Field(100 * 1024 * 1024, gt=0, description="Largest request body, in bytes.")
    max_buffered_bytes: int = Field(
        1024 * 1024 * 1024, gt=0, description="Request bodies held at once, waiting ones included, in bytes."
    )
    queue_size: int = Field(512, ge=0, description="How many requests may wait for a slot; one more gets 429.")
    queue_timeout_s: float = Field(
        60.0, gt=0, description="How long a request may wait for a slot before it gets 503, in seconds."
    )
    max_retries: int = Field(
        1, ge=0, description="How often a request that had got no byte is sent again after its engine ended."
    )
    log_format: LogFormat = Field(
        "auto", description="How the log looks on stderr: text, json, or auto, which is text at a terminal."
    )
    log_requests: bool = Field(False, description="Log each request to stderr, too, as the audit log has it.")
    log_engine: bool = Field(
        False, description="Log llama-server's lines to stderr, too; with its -v they may quote prompts."
    )
    log_level: LogLevel = Field("info", description="Least level of the supervisor's own log lines.")

    metrics_by_key: bool = Field(
        False, description="Count requests and tokens of each key in /metrics, by its id: a series for every key."
    )
    traces_url: str | None = Field(
        None,
        description="http(s)://host[:port] of an OpenTelemetry collector (OTLP over HTTP) that gets a trace of every "
        "request, without content; needs the extra `otel`.",
    )
    traces_sample: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests that are traced, of those that come with no trace of their own.",
    )

    @field_validator("engine_args", mode="before")
    @classmethod
    def _split_like_a_shell(cls, value: object) -> object:
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @field_validator("api_keys", *LISTS, mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.removesuffix(",").split(",")) if value.strip() else ()
        return value

    @field_validator("api_keys")
    @classmethod
    def _refuse_empty_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(key.get_secret_value().strip() for key in value):
            raise ValueError("a key is empty; leave the setting out to have none")
        return value

    @field_validator("open_paths")
    @classmethod
    def _refuse_relative_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [path for path in value if not path.startswith("/")]:
            raise ValueError(f"{wrong[0]!r} is no path; paths begin with /")
        if own := [path for path in value if path.split("/")[1] in OWN_PATHS]:
            raise ValueError(f"{own[0]} is not llama-server's, but the front's own; give a key the scope it needs")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _refuse_other_than_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [origin for origin in value if origin != "*" and not ORIGIN.fullmatch(origin)]:
            raise ValueError(f"{wrong[0]!r} is no origin; write https://host or https://host:port, or *")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _refuse_other_than_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value

    @field_validator("limits_url")
    @classmethod
    def _refuse_other_than_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("it must begin with redis://, rediss:// or unix://")
        return value

    @field_validator("traces_url")
    @classmethod
    def _refuse_other_than_http(cls, value: str | None) -> str | None:
        parts = urlsplit(value) if value is not None else None
        if parts and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0):
            raise ValueError("it must be http://host[:port] or https://host[:port]")
        if parts and "@" in parts.netloc:
            raise ValueError("it may hold no password; the environment's OTEL_EXPORTER_OTLP_HEADERS can")
        return value

    @field_validator("engine_args")
    @classmethod
    def _refuse_flags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        split(value)
        return value

    @model_validator(mode="after")
    def _refuse_halves(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key need each other")
        if self.log_requests and not self.audit:
            raise ValueError("log_requests shows what the audit log has: it needs audit = true")
        if self.log_content and self.content_log is None:
            raise ValueError("log_content writes prompts and answers to a file: name it with content_log")
        return self

    @model_validator(mode="after")
    def _resolve_paths(self) -> Self:
        for name in ("model", "state_dir", "api_keys_file", "tls_cert", "tls_key", "content_log"):
            path = getattr(self, name)
            if path is not None:
                object.__setattr__(self, name, path.expanduser().absolute())
        return self

    @property
    def engine_flags(self) -> tuple[str, ...]:
        """What llama-server gets of `engine_args`."""
        return split(self.engine_args)[1]

    @property
    def notices(self) -> list[str]:
        """What became of the flags in `engine_args` that llama-server does not get. Keys are not shown."""
        lines = []
        for flag in split(self.engine_args)[0]:
            name = TAKEN_OVER[flag]
            value = f"has {len(self.api_keys)}" if name == "api_keys" else f"is {getattr(self, name)}"
            lines.append(f"llama-server's {flag} is taken over by the front: {name} {value}")
        return lines

    def given_keys(self) -> list[str]:
        """The keys in `api_keys` and `api_keys_file`.

        Raises:
            ConfigError: the file cannot be read.
        """
        keys = [key.get_secret_value() for key in self.api_keys]
        if self.api_keys_file:
            keys += read_key_file(self.api_keys_file)
        return keys

    @property
    def keys_given_in(self) -> tuple[str, ...]:
        """Where `given_keys` come from: the setting's name, the file's path."""
        setting = ("api_keys",) if self.api_keys else ()
        return (*setting, str(self.api_keys_file)) if self.api_keys_file else setting

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


class EngineFlagsSource(PydanticBaseSettingsSource):
    """What llama-server's own flags say of the front: the last source, below the settings file."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Not used: `__call__` gives all at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return _taken_from(self.current_state.get("engine_args", ()))


def _taken_from(arguments: Any) -> dict[str, Any]:
    """The settings that llama-server's flags become; none if they are wrong, which the field's validators say."""
    try:
        taken, _ = split(shlex.split(arguments) if isinstance(arguments, str) else arguments)
    except (TypeError, ValueError):
        return {}
    return dict(as_settings(taken))


def read_key_file(path: Path) -> list[str]:
    """The keys in a file, one on a line; lines that begin with # are none.

    Raises:
        ConfigError: it cannot be read, or holds no key.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the key file {path}: {error}") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise ConfigError(f"the key file {path} holds no key; write one on a line of its own")
    return found


def load_settings(
    overrides: Mapping[str, object], *, config: Path | None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Read the settings from all their sources.

    Args:
        overrides: values from the command line; None means "not given".
        config: TOML file; None means RUNNER_CONFIG if set, else no file.
        environ: the environment, which pydantic-settings reads too; a parameter for its unknown names.

    Raises:
        ConfigError: a name is unknown or a value ill-typed; the message names the key.
    """
    _refuse_unknown_variables(environ)
    path = config or (Path(environ["RUNNER_CONFIG"]) if environ.get("RUNNER_CONFIG") else None)
    if path is not None:
        _check_toml(path)

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            adopted = EngineFlagsSource(settings_cls)
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path), adopted

    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    given = _taken_from(given.get("engine_args", ())) | given
    try:
        return Sourced(**given)
    except ValidationError as error:
        raise ConfigError(_explain(error, given, environ, path)) from None


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | OWN_ENV
    for name in sorted(environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known | FOREIGN_ENV:
            raise ConfigError(f"unknown setting {name} in the environment{_suggest(name.upper(), known)}")


def _check_toml(path: Path) -> None:
    try:
        with path.open("rb") as file:
            tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {path} is not valid TOML: {error}") from None


def _suggest(name: str, known: set[str]) -> str:
    bare = {key.removeprefix(ENV_PREFIX): key for key in known}
    close = difflib.get_close_matches(name.removeprefix(ENV_PREFIX), bare, n=1)
    return f"; did you mean {bare[close[0]]}?" if close else "; docs/configuration.md lists them all"


def _explain(
    error: ValidationError, given: Mapping[str, object], environ: Mapping[str, str], path: Path | None
) -> str:
    """One line for the first fault: the key, where it was set, and what is wrong with it."""
    fault = error.errors(include_url=False)[0]
    if not fault["loc"]:  # of several settings, each of which may come from elsewhere
        return f"bad settings: {fault['msg'].removeprefix('Value error, ')}"
    key = str(fault["loc"][0])
    variable = ENV_PREFIX + key.upper()
    if key in given:
        source = "on the command line"
    elif variable in {name.upper() for name in environ}:
        source, key = "in the environment", variable
    else:
        source = f"in {path}" if path else "among llama-server's flags"
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {key} {source}{_suggest(key, set(Settings.model_fields))}"
    message = fault["msg"].removeprefix("Value error, ")
    shown = (
        ""
        if key.lower().endswith(("api_keys", "limits_url")) or fault["type"] == "value_error"
        else _shown(fault["input"])
    )
    return f"bad setting {key} {source}: {message}{shown}"


def _shown(value: object) -> str:
    return f" (got {value!r})"
