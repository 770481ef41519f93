"""Settings: from arguments or the environment, and a clear line for each that makes no sense."""

from typing import Any

import pytest

from opensentry_ingest import SettingsError, create_app, settings

URL = "postgresql://user:secret@localhost/db"


def test_an_argument_counts_more_than_the_environment() -> None:
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


def test_an_empty_variable_is_an_absent_one() -> None:
    loaded = settings.load({"DATABASE_URL": URL, "OPENSENTRY_POOL_SIZE": " "})
    assert loaded == settings.Settings(URL)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
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
    ],
)
def test_a_value_that_makes_no_sense_is_named_in_one_line(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load({"DATABASE_URL": URL, variable: value})
    message = str(caught.value)
    assert message.startswith(variable)
    assert "\n" not in message
    assert "secret" not in message


@pytest.mark.parametrize("arguments", [{"pool_size": "x"}, {"allowed_origins": [1]}, {"database_url": 5}])
def test_an_argument_of_another_kind_is_named_too(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        create_app(**{"database_url": URL, **arguments})


def test_every_setting_has_a_variable() -> None:
    assert set(settings.VARIABLES) == set(settings.Settings.__dataclass_fields__)
