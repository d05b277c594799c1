"""``amqps://`` without a context of one's own: the system's authorities are trusted, and the host's name is checked."""

import ssl
from collections.abc import Iterator

import pytest

from tests.support.tls import Certificates, make_certificates
from warren import CallError, Client
from warren.broker import Broker


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["127.0.0.1"])
def port(certificates: Certificates, request: pytest.FixtureRequest) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    with Broker(host=request.param, tls=context) as broker:
        yield broker.port


def connect(host: str, port: int) -> None:
    with Client(f"amqps://{host}:{port}", timeout=30) as client:
        client.connect()


def test_an_authority_that_the_system_trusts_is_trusted(
    port: int, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.cafile))
    connect("localhost", port)
    connect("127.0.0.1", port)


@pytest.mark.parametrize("port", ["127.0.0.2"], indirect=True)
def test_another_host_than_the_certificate_names_is_refused(
    port: int, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.cafile))
    with pytest.raises(CallError, match=r"certificate is not trusted.*127\.0\.0\.2") as caught:
        connect("127.0.0.2", port)
    assert caught.value.reason == "TLS"


def test_an_authority_that_the_system_does_not_know_is_refused(port: int) -> None:
    with pytest.raises(CallError, match="certificate is not trusted"):
        connect("localhost", port)
