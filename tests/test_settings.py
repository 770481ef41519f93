"""Settings: from arguments or the environment, and one clear line for each invalid value."""

from typing import Any

import pytest

from opensentry_ingest import SettingsError, create_app, settings

URL = "postgresql://user:secret@localhost/db"


def test_an_argument_overrides_the_environment() -> None:
    environ = {
        "DATABASE_URL": URL,
        "OPENSENTRY_POOL_SIZE": "7",
        "OPENSENTRY_ALLOWED_ORIGINS": "https://a.example, http://b:8080",
    }
    loaded = settings.load(environ, pool_size=3)
    assert loaded.pool_size == 3
    assert loaded.allowed_origins
    assert set(loaded.allowed_origins) == {"https://a.example", "http://b:8080"}
    assert settings.load(environ).pool_size == 7


def test_an_empty_variable_counts_as_unset() -> None:
    loaded = settings.load({"DATABASE_URL": URL, "OPENSENTRY_POOL_SIZE": " "})
    assert loaded == settings.Settings(URL)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OPENSENTRY_RETENTION_DAYS_EVENTS", "1.5"),
        ("OPENSENTRY_RETENTION_DAYS_EVENTS", "0"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "https://user@app.example.com"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "https://app.example.com:0"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "https://app.example.com?a"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "https://"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "https://[::1"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "null"),
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "mysql://user:secret@localhost/db"),
        ("OPENSENTRY_POOL_SIZE", "many"),
        ("OPENSENTRY_POOL_SIZE", "0"),
        ("OPENSENTRY_POOL_SIZE", "1001"),
        ("OPENSENTRY_POOL_SIZE", "2.5"),
        ("OPENSENTRY_DATABASE_TIMEOUT", "soon"),
        ("OPENSENTRY_DATABASE_TIMEOUT", "0"),
        ("OPENSENTRY_DATABASE_TIMEOUT", "nan"),
        ("OPENSENTRY_DATABASE_TIMEOUT", "3600"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "*"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "app.example.com"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "https://app.example.com/path"),
        ("OPENSENTRY_ALLOWED_ORIGINS", "https://app.example.com/"),
        ("OPENSENTRY_PUBLIC_URL", "ingest.example.com"),
        ("OPENSENTRY_PUBLIC_URL", "http://host:port"),
        ("OPENSENTRY_KEEP_PROMPTS", "1"),
        ("OPENSENTRY_KEEP_PROMPTS", "maybe"),
    ],
)
def test_an_invalid_value_is_named_in_one_line(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load({"DATABASE_URL": URL, variable: value})
    message = str(caught.value)
    assert message.startswith(variable)
    assert "\n" not in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "arguments",
    [{"pool_size": "x"}, {"pool_size": 2.9}, {"allowed_origins": [1]}, {"allowed_origins": 1}, {"database_url": 5}],
)
def test_an_argument_of_another_type_is_named_too(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        create_app(**{"database_url": URL, **arguments})
    (name,) = arguments
    assert settings.VARIABLES[name] in str(caught.value)


@pytest.mark.parametrize(("value", "kept"), [("yes", True), ("Yes", True), ("no", False), ("", False)])
def test_prompts_are_kept_only_if_asked(value: str, kept: bool) -> None:
    assert settings.load({"DATABASE_URL": URL, "OPENSENTRY_KEEP_PROMPTS": value}).keep_prompts is kept


def test_a_whole_number_may_be_a_float_and_no_other_is_rounded() -> None:
    assert settings.load({}, database_url=URL, pool_size=2.0).pool_size == 2
    assert settings.load({}, database_url=URL, retention_days_events=7.0).retention_days_events == 7
    for given in ({"pool_size": 2.9}, {"retention_days_events": 1.5}, {"pool_size": float("inf")}):
        with pytest.raises(SettingsError, match="whole number"):
            settings.load({}, database_url=URL, **given)


def test_without_a_list_any_origin_may_post_and_with_an_empty_one_none_may() -> None:
    assert settings.load({"DATABASE_URL": URL}).allowed_origins is None
    assert settings.load({"DATABASE_URL": URL, "OPENSENTRY_ALLOWED_ORIGINS": ""}).allowed_origins is None
    assert settings.load({"DATABASE_URL": URL}, allowed_origins=[]).allowed_origins == frozenset()
    environ = {"DATABASE_URL": URL, "OPENSENTRY_ALLOWED_ORIGINS": "https://a.example"}
    assert settings.load(environ, allowed_origins=[]).allowed_origins == frozenset()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
        ("HTTPS://A.Example", "https://a.example"),
        ("https://a.example:80", "https://a.example:80"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://a.example:8443", "https://a.example:8443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://[2001:DB8::443]", "https://[2001:db8::443]"),
        ("https://[2001:db8::1]:443", "https://[2001:db8::1]"),
    ],
)
def test_an_origin_is_compared_as_a_browser_sends_it(given: str, sent: str) -> None:
    loaded = settings.load({"DATABASE_URL": URL, "OPENSENTRY_ALLOWED_ORIGINS": given})
    assert loaded.allowed_origins == frozenset([sent])


def test_every_setting_has_a_variable() -> None:
    assert set(settings.VARIABLES) == set(settings.Settings.__dataclass_fields__)
