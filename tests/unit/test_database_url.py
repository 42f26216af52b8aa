"""Where the records are: SQLite in the home, or a PostgreSQL whose password is said elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock import wiring
from penstock.config import server_settings
from penstock.errors import ConfigurationError


def url(home: Path, chosen: str) -> str:
    (home / "server.toml").write_text(f'[database]\nurl = "{chosen}"\n')
    return wiring.database_url(home, server_settings(home / "server.toml"))


def test_without_a_setting_the_home_holds_the_records(tmp_path: Path) -> None:
    settings = server_settings(tmp_path / "server.toml")

    assert wiring.database_url(tmp_path, settings) == f"sqlite:///{tmp_path}/penstock.db"


def test_the_password_comes_from_the_environment_before_the_file_before_the_librarys_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_DATABASE_PASSWORD", raising=False)
    address = "postgresql://ada@db.example.org:5433/models?sslmode=require"
    none = url(tmp_path, address)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "database").write_text("from a@file\n")
    of_file = url(tmp_path, address)
    monkeypatch.setenv("PENSTOCK_DATABASE_PASSWORD", "from/environment")
    of_environment = url(tmp_path, address)

    rest = "db.example.org:5433/models?sslmode=require"
    assert none == f"postgresql+psycopg://ada@{rest}"
    assert of_file == f"postgresql+psycopg://ada:from a%40file@{rest}"
    assert of_environment == f"postgresql+psycopg://ada:from%2Fenvironment@{rest}"


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ("postgresql://ada:hidden1@db/models", "has a password in it"),
        ("postgresql://db/models?user=ada&password=hidden1", "has a password in it"),
        ("mysql://ada@db/models", '"mysql" is no kind of database'),
        ("sqlite:////tmp/x.db", '"sqlite" is no kind of database'),
        ("postgresql://ada@db", "names no database"),
        ("postgresql://[::1/models", "is no address"),
    ],
)
def test_an_address_that_cannot_be_used_is_a_fault_that_shows_no_password(
    tmp_path: Path, chosen: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError) as told:
        url(tmp_path, chosen)

    assert reason in str(told.value)
    assert "database.url" in str(told.value)
    assert "hidden1" not in str(told.value)
