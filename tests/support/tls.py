"""Throw-away certificates for TLS tests: one CA, a server's and a client's certificate, no network."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

from rabbit import TlsFiles


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files in one folder, and client-side contexts made from them."""

    cafile: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    def node_files(self, verify: bool = False) -> TlsFiles:
        """What `rabbit.Node(tls=...)` takes; `verify` makes it demand a client certificate."""
        return TlsFiles(self.cafile, self.server_cert, self.server_key, verify)

    def client_context(self, with_certificate: bool = True) -> ssl.SSLContext:
        """A context that trusts only our CA, checks the host name and, if asked, shows who it is."""
        context = ssl.create_default_context(cafile=str(self.cafile))
        if with_certificate:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context


def make_certificates(folder: Path) -> Certificates:
    """Make a CA, a server certificate for localhost and 127.0.0.1, and a client certificate, in `folder`."""
    ca = trustme.CA()
    cafile = folder / "ca.pem"
    ca.cert_pem.write_to_path(str(cafile))
    server = _write(ca.issue_cert("localhost", "127.0.0.1"), folder, "server")
    client = _write(ca.issue_cert("client@warren.test", common_name="warren-client"), folder, "client")
    return Certificates(cafile, *server, *client)


def _write(leaf: trustme.LeafCert, folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    for number, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(str(cert), append=number > 0)
    leaf.private_key_pem.write_to_path(str(key))
    return cert, key
