"""Where settings come from, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner_supervisor.errors import ConfigError
from runner_supervisor.settings import load_settings


def test_command_line_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('host = "127.0.0.3"\nport = 3\nload_timeout_s = 3\n')
    monkeypatch.setenv("RUNNER_HOST", "127.0.0.2")
    monkeypatch.setenv("RUNNER_PORT", "2")
    settings = load_settings({"port": 1, "host": None}, config=config)
    assert (settings.port, settings.host, settings.load_timeout_s) == (1, "127.0.0.2", 3.0)
    assert settings.drain_timeout_s == 30.0


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text("port = 9")
    monkeypatch.setenv("RUNNER_CONFIG", str(tmp_path / "config.toml"))
    assert load_settings({}, config=None).port == 9


def test_lists_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_ENGINE_ARGS", "--ctx-size 4096 --alias 'my model'")
    monkeypatch.setenv("RUNNER_API_KEYS", "one, two,")
    settings = load_settings({}, config=None)
    assert settings.engine_args == ("--ctx-size", "4096", "--alias", "my model")
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


def test_what_is_written_for_llama_server_works_here_too() -> None:
    flags = ("-m", "m.gguf", "--ctx-size", "4096", "--host=127.0.0.2", "--port", "9", "--api_key", "hush")
    flags += ("--api-key", "hush2", "--metrics")
    settings = load_settings({"engine_args": flags}, config=None)
    assert (settings.host, settings.port, settings.model) == ("127.0.0.2", 9, Path.cwd() / "m.gguf")
    assert settings.given_keys() == ["hush", "hush2"]
    assert settings.engine_flags == ("--ctx-size", "4096")
    assert "llama-server's --port is taken over by the front: port is 9" in settings.notices
    assert "hush" not in "".join(settings.notices)


def test_a_setting_of_the_fronts_own_counts_more_than_a_flag_of_llama_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNNER_PORT", "8")
    monkeypatch.setenv("RUNNER_ENGINE_ARGS", "--port 9")
    settings = load_settings({}, config=None)
    assert settings.port == 8
    assert settings.notices == ["llama-server's --port is taken over by the front: port is 8"]
    assert load_settings({"engine_args": ("--port", "7")}, config=None).port == 7
    assert load_settings({"engine_args": ("--port", "7"), "port": 6}, config=None).port == 6
    with pytest.raises(ConfigError, match="bad setting port on the command line"):
        load_settings({"engine_args": ("--port", "nonsense")}, config=None)


def test_keys_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# of the web team\none\n\n two \n")
    (tmp_path / "none").write_text("\n# nothing\n")
    assert load_settings({"api_keys_file": tmp_path / "keys"}, config=None).given_keys() == ["one", "two"]
    with pytest.raises(ConfigError, match=r"cannot read the key file .*missing"):
        load_settings({"api_keys_file": tmp_path / "missing"}, config=None).given_keys()
    with pytest.raises(ConfigError, match=r"the key file .*none holds no key"):
        load_settings({"api_keys_file": tmp_path / "none"}, config=None).given_keys()


def test_what_other_programs_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_OS", "Linux")
    monkeypatch.setenv("RUNNER_TEMP", "/tmp")
    load_settings({}, config=None)


@pytest.mark.parametrize(
    ("given", "environment", "toml", "message"),
    [
        (
            {},
            {"RUNNER_MODLE": "x"},
            "",
            "unknown setting RUNNER_MODLE in the environment; did you mean RUNNER_MODEL?",
        ),
        ({}, {"RUNNER_XYZ": "x"}, "", "unknown setting RUNNER_XYZ in the environment; docs/configuration.md lists"),
        ({"port": 70000}, {}, "", "bad setting port on the command line: "),
        ({}, {"RUNNER_PORT": "x"}, "", "bad setting RUNNER_PORT in the environment: Input should be a valid integer"),
        ({}, {}, "modle = 'x'", "unknown setting modle in {config}; did you mean model?"),
        ({}, {}, "drain_timeout_s = -1", "bad setting drain_timeout_s in {config}: "),
        ({}, {}, "[", "the settings file {config} is not valid TOML: "),
        ({}, {}, "api_keys = ['one', '']", "bad setting api_keys in {config}: a key is empty"),
        ({}, {"RUNNER_API_KEYS": "one,,two"}, "", "bad setting RUNNER_API_KEYS in the environment: a key is empty"),
        ({}, {"RUNNER_API_KEYS": ","}, "", "bad setting RUNNER_API_KEYS in the environment: a key is empty"),
        ({}, {}, "engine_args = ['--api_prefix', '/x']", "--api-prefix is the supervisor's"),
        ({}, {}, "engine_args = ['--port']", "bad setting engine_args in {config}: --port has no value"),
        ({}, {}, "engine_args = 7", "bad setting engine_args in {config}: "),
        ({"tls_cert": "/cert.pem"}, {}, "", "bad settings: tls_cert and tls_key need each other"),
    ],
)
def test_bad_settings_name_the_key_and_where_it_was_set(
    given: dict[str, object],
    environment: dict[str, str],
    toml: str,
    message: str,
    request: pytest.FixtureRequest,
) -> None:
    config = request.getfixturevalue("tmp_path") / "config.toml"
    config.write_text(toml)
    for name, value in environment.items():
        request.getfixturevalue("monkeypatch").setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings(given, config=config)
    assert message.format(config=config) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_key_list_is_not_shown(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('api_keys = {secret = "hush"}')
    with pytest.raises(ConfigError) as caught:
        load_settings({}, config=config)
    assert "hush" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the settings file .*missing.toml: No such file"):
        load_settings({}, config=tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.5", False), ("example.org", False)],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert load_settings({"host": host}, config=None).on_loopback is loopback


def test_paths_are_absolute_from_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({"model": "m.gguf"}, config=None).model == tmp_path / "m.gguf"


@pytest.mark.parametrize("path", ["/admin", "/admin/stop", "/metrics", "/health"])
def test_the_fronts_own_paths_are_not_opened(path: str) -> None:
    with pytest.raises(ConfigError, match="the front's own"):
        load_settings({"open_paths": [path]}, config=None, environ={})


@pytest.mark.parametrize(
    "url", ["host:4318", "grpc://host:4317", "http://", "http://host:99999", "http://[", "http://u:hush@host"]
)
def test_a_collectors_url_is_http_and_holds_no_password(url: str) -> None:
    with pytest.raises(ConfigError, match="bad setting traces_url on the command line: ") as caught:
        load_settings({"traces_url": url}, config=None, environ={})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://collector:4318", "https://[::1]/otlp/v1/traces"])
def test_a_collectors_url_may_have_a_path(url: str) -> None:
    assert load_settings({"traces_url": url}, config=None, environ={}).traces_url == url
