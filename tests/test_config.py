"""Settings: argument > environment > configuration file > default."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import fanout
from fanout import config
from fanout.config import Settings, resolve
from fanout.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FILE = "settings.toml"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the developer's own machine says is no part of a test."""
    for name in Settings.__dataclass_fields__:
        monkeypatch.delenv(f"FANOUT_{name.upper()}", raising=False)
    monkeypatch.delenv("FANOUT_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_without_anything_the_defaults_hold() -> None:
    assert resolve({}, {}, FILE) == Settings()
    assert config.load() == Settings(backend="local", workers=None, progress=True)


def test_the_file_goes_before_the_default() -> None:
    assert resolve({}, {"workers": 3, "progress": False}, FILE) == Settings(
        workers=3, progress=False
    )


def test_the_environment_goes_before_the_file() -> None:
    environment = {"FANOUT_WORKERS": "5", "FANOUT_PROGRESS": "0"}
    found = resolve(environment, {"workers": 3, "progress": True}, FILE)
    assert found == Settings(workers=5, progress=False)


def test_an_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANOUT_WORKERS", "5")
    assert "5 workers" in fanout.Executor().backend.name
    assert "2 workers" in fanout.Executor(fanout.Local(2)).backend.name


def test_an_empty_variable_counts_as_not_set() -> None:
    assert resolve({"FANOUT_WORKERS": ""}, {"workers": 3}, FILE).workers == 3


@pytest.mark.parametrize("text", ["1", "true", "yes", "on", "On", " TRUE "])
def test_what_switches_on(text: str) -> None:
    assert resolve({"FANOUT_PROGRESS": text}, {"progress": False}, FILE).progress is True


@pytest.mark.parametrize("text", ["0", "false", "no", "off", "No"])
def test_what_switches_off(text: str) -> None:
    assert resolve({"FANOUT_PROGRESS": text}, {}, FILE).progress is False


def test_a_switch_that_is_neither_is_refused_with_its_place() -> None:
    with pytest.raises(UsageError) as caught:
        resolve({"FANOUT_PROGRESS": "maybe"}, {}, FILE)
    assert str(caught.value) == (
        "'maybe' in the environment variable FANOUT_PROGRESS must be 1 or 0 (or true or false)"
    )


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "many", [1]])
def test_workers_that_are_no_number_are_refused_with_their_place(value: object) -> None:
    with pytest.raises(UsageError) as caught:
        resolve({}, {"workers": value}, FILE)
    message = f"workers {value!r} in {FILE} must be a whole number, 1 or more"
    assert str(caught.value) == message


def test_workers_of_the_environment_are_refused_with_their_variable() -> None:
    with pytest.raises(UsageError, match="'many' in the environment variable FANOUT_WORKERS"):
        resolve({"FANOUT_WORKERS": "many"}, {}, FILE)


def test_an_unknown_backend_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        resolve({"FANOUT_BACKEND": "cray"}, {}, FILE)
    message = str(caught.value)
    assert "backend 'cray' in the environment variable FANOUT_BACKEND is not known" in message
    assert "there are 'local' and 'lambda'" in message


def test_lambda_and_its_function_can_be_set_everywhere() -> None:
    file = {"backend": "lambda", "function": "of-the-file"}
    assert resolve({}, file, FILE) == Settings(backend="lambda", function="of-the-file")
    environment = {"FANOUT_BACKEND": "lambda", "FANOUT_FUNCTION": " named "}
    assert resolve(environment, file, FILE) == Settings(backend="lambda", function="named")


@pytest.mark.parametrize("value", [7, "", "  ", ["f"]])
def test_a_function_that_is_no_name_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(UsageError, match="must be the name or the ARN") as caught:
        resolve({}, {"function": value}, FILE)
    assert FILE in str(caught.value)


def test_a_store_can_be_set_everywhere() -> None:
    assert resolve({}, {"store": "s3://bucket/x"}, FILE).store == "s3://bucket/x"
    environment = {"FANOUT_STORE": " /data "}
    assert resolve(environment, {"store": "s3://bucket/x"}, FILE).store == "/data"


@pytest.mark.parametrize("value", [7, "", "  ", ["s3://bucket"]])
def test_a_store_that_is_no_name_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(UsageError, match=f"{FILE}.*must be 's3://bucket/prefix' or the path"):
        resolve({}, {"store": value}, FILE)


def test_an_unknown_setting_in_the_file_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        resolve({}, {"wrokers": 3}, FILE)
    assert str(caught.value) == (
        f"unknown setting 'wrokers' in {FILE}: "
        "there are backend, function, store, workers, progress"
    )


def test_a_foreign_variable_is_nobodys_business() -> None:
    assert resolve({"FANOUT_WROKERS": "3"}, {}, FILE) == Settings()


# ---- the file ----


def test_the_file_is_where_fanout_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my.toml"
    path.write_text("workers = 4\n", encoding="utf-8")
    monkeypatch.setenv("FANOUT_CONFIG", str(path))
    assert config.load().workers == 4


def test_the_file_is_in_the_users_configuration_folder() -> None:
    path = config._default_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("progress = false\n", encoding="utf-8")
    assert config.load().progress is False


def test_a_named_file_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FANOUT_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"none\.toml, which does not exist: create it or unset"):
        config.load()


def test_a_file_that_is_not_toml_is_an_error_that_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(b"workers = \n")
    monkeypatch.setenv("FANOUT_CONFIG", str(path))
    with pytest.raises(UsageError, match=r"my\.toml can't be read: .*line 1"):
        config.load()


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not text", "a folder"])
def test_a_file_that_can_not_be_read_is_an_error(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    monkeypatch.setenv("FANOUT_CONFIG", str(path))
    with pytest.raises(UsageError, match=r"my\.toml can't be read"):
        config.load()


def test_a_wrong_value_in_the_file_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my.toml"
    path.write_text("workers = 0\n", encoding="utf-8")
    monkeypatch.setenv("FANOUT_CONFIG", str(path))
    with pytest.raises(UsageError, match=r"workers 0 in .*my\.toml must be"):
        config.load()
