"""What the environment says to the far end's S3: endpoint, credentials, trust, proxy."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import socketserver
import ssl
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import botocore.session
import pytest
import trustme
from botocore.config import Config

from fanout.errors import StoreError
from fanout.far_stores import open_store
from fanout.far_stores.s3 import S3Store
from fanout.far_stores.s3_settings import https_proxy
from fanout.far_stores.s3_signing import quoted
from tests.far_stores_checks import MIB, Fake, serving, settle, store_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as served:
        yield served


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def s3(fake: Fake, slept: list[float]) -> Iterator[S3Store]:
    with store_of(fake, slept) as store:
        yield store


def test_https_is_spoken_with_whom_the_certificates_trust(
    slept: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with serving(context) as fake:
        content = random.Random(0).randbytes(20 * MIB)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
        store = S3Store(bucket="b", region="r", endpoint=fake.url, sleep=slept.append)
        with contextlib.closing(store):
            store.put("a", [content])
            assert bytes(store.get("a")) == content
        monkeypatch.delenv("AWS_CA_BUNDLE")
        store = S3Store(bucket="b", region="r", endpoint=fake.url, sleep=slept.append)
        with pytest.raises(StoreError, match="name the certificates to trust in AWS_CA_BUNDLE"):
            store.get("a")
    assert not slept


def test_certificates_that_can_not_be_read_are_told(
    slept: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none.pem").write_bytes(b"")
    for name in ("none.pem", "missing.pem"):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / name))
        store = S3Store(bucket="b", region="r", sleep=slept.append)
        with pytest.raises(StoreError, match=rf"AWS_CA_BUNDLE=.*{name} can't be read .* unset it"):
            store.get("a")
    assert not slept


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_missing_credentials_are_named(
    s3: S3Store, fake: Fake, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(StoreError, match=r"no credentials for S3: Lambda .*export-credentials"):
        s3.get("a")
    assert not fake.asked


def test_credentials_are_read_anew_for_each_request(
    s3: S3Store, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a", [])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANEW")
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    s3.put("b", [])
    old, new = fake.asked
    assert "Credential=AKIAFANOUT/" in old.headers["Authorization"]
    assert old.headers["X-Amz-Security-Token"] == "token=="
    assert "Credential=AKIANEW/" in new.headers["Authorization"]
    assert "X-Amz-Security-Token" not in new.headers


@pytest.mark.parametrize(
    ("bucket", "region", "host", "path"),
    [
        ("b-1", "eu-west-1", "b-1.s3.eu-west-1.amazonaws.com", "/p%20q/a"),
        ("b.1", "eu-west-1", "s3.eu-west-1.amazonaws.com", "/b.1/p%20q/a"),
        ("b-1", "cn-north-1", "b-1.s3.cn-north-1.amazonaws.com.cn", "/p%20q/a"),
    ],
)
def test_a_bucket_of_aws_has_its_own_host_unless_its_name_has_dots(
    bucket: str, region: str, host: str, path: str
) -> None:
    store = S3Store(bucket=bucket, prefix="p q/", region=region)
    assert (store._host, store._root + quoted(store._place.prefix + "a")) == (host, path)


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "cn-north-1", "us-gov-west-1"])
@pytest.mark.parametrize("is_fips", [False, True])
@pytest.mark.parametrize("is_dual", [False, True])
def test_the_host_of_aws_is_the_one_that_botocore_asks(
    region: str, is_fips: bool, is_dual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_fips and region.startswith("cn-"):
        return  # there is none
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", str(is_fips).lower())
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", str(is_dual))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    config = Config(
        use_fips_endpoint=is_fips,
        use_dualstack_endpoint=is_dual,
        signature_version="s3v4",
        s3={"addressing_style": "virtual", "us_east_1_regional_endpoint": "regional"},
    )
    client = botocore.session.Session().create_client("s3", region, config=config)
    with contextlib.closing(client):
        url = client.generate_presigned_url("get_object", Params={"Bucket": "b-1", "Key": "a"})
    assert S3Store(bucket="b-1", region=region)._host == urlsplit(url).netloc


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_the_environment_names_the_endpoint_where_the_locator_does_not(
    fake: Fake, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv(name, fake.url)
    locator = {"kind": "s3", "bucket": "bucket", "prefix": "", "region": "r", "endpoint": None}
    with contextlib.closing(open_store(locator)) as store:
        store.put("a", [b"x"])
        assert bytes(store.get("a")) == b"x"
    assert fake.objects == {"/bucket/a": b"x"}
    other = S3Store(bucket="b", region="r", endpoint="http://127.0.0.1:2")
    assert other._host == "127.0.0.1:2"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert S3Store(bucket="b", region="r")._host == "b.s3.r.amazonaws.com"


@pytest.mark.parametrize("url", ["host:1", "ftp://host", "http://", "http://host:port", "//[x"])
def test_an_endpoint_that_is_none_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    with pytest.raises(StoreError, match=r"is no endpoint: pass a URL .* see AWS_ENDPOINT_URL_S3"):
        S3Store(bucket="b", region="r")


# A proxy


@contextlib.contextmanager
def tunnelling(port: int, status: str = "200 Established") -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that leads to a port of this machine, whatever the name; gives what it was told."""
    told: list[bytes] = []

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.rfile.readline()
            told.append(head)
            self.wfile.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
            if not status.startswith("200"):
                return
            with socket.create_connection(("127.0.0.1", port)) as server:
                back = threading.Thread(target=carry, args=[server, self.connection])
                back.start()
                carry(self.connection, server)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False

    with Server(("127.0.0.1", 0), Tunnel) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", told
        server.shutdown()
        thread.join()


def test_a_proxy_leads_to_https_endpoints_and_reads_nothing(
    slept: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("s3.test").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    with serving(context) as fake, tunnelling(int(fake.url.rpartition(":")[2])) as (proxy, told):
        monkeypatch.setenv("HTTPS_PROXY", f"http://us%20er:pass@{proxy}")
        store = S3Store(bucket="b", region="r", endpoint="https://s3.test:7", sleep=slept.append)
        with contextlib.closing(store):
            store.put("a", [b"x"])
            assert bytes(store.get("a")) == b"x"
        assert [asked.headers["Host"] for asked in fake.asked] == ["s3.test:7"] * 2
    (head,) = told
    assert head.startswith(b"CONNECT s3.test:7 HTTP/1.")
    assert b"Proxy-Authorization: Basic dXMgZXI6cGFzcw==\r\n" in head  # us er:pass
    assert not slept


def test_a_proxy_that_refuses_is_told(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    with tunnelling(1, "403 Forbidden") as (proxy, told):
        monkeypatch.setenv("https_proxy", proxy)
        store = S3Store(bucket="b", region="r", sleep=slept.append)
        with pytest.raises(StoreError, match=r"403 Forbidden.*the proxy that HTTPS_PROXY names"):
            store.get("a")
    assert told[0].startswith(b"CONNECT b.s3.r.amazonaws.com:443 ")


@pytest.mark.parametrize("spared", ["127.0.0.1", "*", "example.org,127.0.0.1"])
def test_no_proxy_spares_hosts(spared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:1")
    assert https_proxy("127.0.0.1") is not None
    monkeypatch.setenv("NO_PROXY", spared)
    assert https_proxy("127.0.0.1") is None


def test_what_speaks_no_tls_needs_no_proxy(
    s3: S3Store, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    s3.put("a", [b"x"])
    assert len(fake.asked) == 1


@pytest.mark.parametrize("proxy", ["https://proxy.test", "socks5://proxy.test", "http://a:b", ":1"])
def test_a_proxy_that_can_not_be_used_is_told(
    proxy: str, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    store = S3Store(bucket="b", region="r", sleep=slept.append)
    with pytest.raises(StoreError, match="no proxy that workers can use: set it to http://host"):
        store.get("a")
