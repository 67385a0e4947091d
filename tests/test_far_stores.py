"""The far end's stores, of both kinds: what they import, which keys and locators they take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fanout.errors import StoreError
from fanout.far_stores import FarStore, kept_store, open_store
from fanout.far_stores.directory import DirectoryStore
from fanout.far_stores.s3 import S3Store

ROOT = Path(__file__).parent.parent


def test_import_loads_the_standard_library_only_and_no_http() -> None:
    code = (
        "import sys; before = set(sys.modules); import fanout.far_stores; "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert roots - set(sys.stdlib_module_names) == {"fanout"}
    assert not {"http.client", "ssl", "urllib.parse"} & set(done.stdout.split())


def test_an_s3_store_loads_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); from fanout.far_stores import open_store; "
        "open_store({'kind': 's3', 'bucket': 'b', 'prefix': '', 'region': 'r', 'endpoint': None}); "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert roots - set(sys.stdlib_module_names) == {"fanout"}


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "a/.",
        "a b",
        "a\n",
        "ä",
        "a\\b",
        "a\x00",
        "a?b",
        ".a",
        "a/.b",
        "...",
        "a" * 1025,
    ],
)
@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_key_that_could_lead_elsewhere_is_refused(kind: str, key: str, tmp_path: Path) -> None:
    stores: dict[str, FarStore] = {
        "directory": DirectoryStore(tmp_path),
        "s3": S3Store(bucket="b", region="r", endpoint="http://127.0.0.1:1"),
    }
    store = stores[kind]
    uses: list[Any] = [store.delete, lambda key: store.put(key, [b"x"])]
    if kind == "directory":  # in S3 an object of somebody else may have nearly any key
        uses += [store.get, store.size]
    for use in uses:
        with pytest.raises(StoreError, match="no key of a store: use names of A-Z"):
            use(key)


@pytest.mark.parametrize("key", ["", "a\n", "a\x00", "ä" * 513])
def test_what_no_object_of_s3_has_for_a_key_is_not_asked_for(key: str) -> None:
    store = S3Store(bucket="b", region="r", endpoint="http://127.0.0.1:1")
    for use in (store.get, store.size):
        with pytest.raises(StoreError, match="is no key of S3"):
            use(key)


@pytest.mark.parametrize("key", ["a", "objects/0f", "runs/r-1/17", "a..b", "a.", "a_b.C-9", "-/_"])
def test_a_plain_key_is_taken(key: str, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put(key, [b"x"])
    assert bytes(store.get(key)) == b"x"


@pytest.mark.parametrize(
    ("locator", "why"),
    [
        ({}, "lacks 'kind': use the same version"),
        ({"kind": "directory"}, "lacks 'path': use the same version"),
        ({"kind": "s3", "bucket": "b"}, "lacks 'prefix': use the same version"),
        ({"kind": "tape"}, "'tape' is not known here.*same version"),
        (
            {"kind": "s3", "bucket": "b", "prefix": "", "region": "r", "endpoint": "host:1"},
            "'host:1' is no endpoint: pass a URL",
        ),
        (
            {"kind": "s3", "bucket": "evil.test/", "prefix": "", "region": "r", "endpoint": None},
            "'evil.test/' is no bucket: use letters",
        ),
        (
            {"kind": "s3", "bucket": "b", "prefix": "", "region": "evil.test#", "endpoint": None},
            "'evil.test#' is no region: use letters",
        ),
    ],
)
def test_a_locator_that_is_none_is_refused(locator: dict[str, Any], why: str) -> None:
    with pytest.raises(StoreError, match=why):
        open_store(locator)


def test_a_process_has_one_store_for_each_locator(tmp_path: Path) -> None:
    a: dict[str, Any] = {"kind": "directory", "path": str(tmp_path / "a")}
    b = a | {"path": str(tmp_path / "b")}
    assert kept_store(a) is kept_store({"path": a["path"], "kind": "directory"})
    assert kept_store(a) is not kept_store(b)
    assert open_store(a) is not open_store(a)
    of_the_parent = kept_store(a)
    with mock.patch("os.getpid", return_value=-1):  # as in a child that a kernel forks
        assert kept_store(a) is not of_the_parent
