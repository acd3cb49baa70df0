"""Servers that tests share: a real Postgres and a real S3 store, started once a session on free ports."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import random
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inference.models.bundled import WEIGHTS_PACKAGE, ensure_default_model
from inference.models.store import ModelStore
from local_stack.object_store import EmbeddedObjectStore
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import free_ports

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("nightlabel")
    group.addoption("--faults-full", action="store_true", help="hundreds of kills and outages instead of a few")
    group.addoption("--scale", action="store_true", help="a million keys and ten million outcomes instead of a few")
    group.addoption("--seed", type=int, help="what all randomness comes from (default: another one each time)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--seed") is None:
        config.option.seed = random.SystemRandom().randrange(2**31)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--faults-full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_report_header(config: pytest.Config) -> str:
    size = "full" if config.getoption("--faults-full") else "quick"
    return f"faults: {size}; seed: {config.getoption('--seed')} (repeat with --seed)"


@pytest.fixture(scope="session")
def is_full(pytestconfig: pytest.Config) -> bool:
    """Whether the long form of a suite is wanted."""
    return bool(pytestconfig.getoption("--faults-full"))


@pytest.fixture(scope="session")
def is_scale(pytestconfig: pytest.Config) -> bool:
    """Whether the suites of tests/scale are to run at full size, and to hold their figures to limits."""
    return bool(pytestconfig.getoption("--scale"))


@pytest.fixture
def seed(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> int:
    """What a test draws its randomness from: the run's seed and the test's name. Shown when the test fails."""
    of_run = pytestconfig.getoption("--seed")
    print(f"repeat with --seed {of_run}")  # noqa: T201 - pytest shows it with a failure
    return int.from_bytes(hashlib.sha256(f"{of_run} {request.node.nodeid}".encode()).digest()[:4], "big")


@pytest.fixture(scope="session")
def server_folders() -> Iterator[Path]:
    """Where servers keep their data, and not below pytest's own folder.

    Every session that starts closes that to other users, and a Postgres started by root runs as one.
    """
    with tempfile.TemporaryDirectory(prefix="nightlabel-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def server_folder(server_folders: Path) -> Path:
    """An empty folder for a server that a test starts itself."""
    return Path(tempfile.mkdtemp(dir=server_folders))


@pytest.fixture(scope="session")
def postgres_server(server_folders: Path) -> Iterator[EmbeddedPostgres]:
    """A Postgres that only this session knows; not safe against a crash of the machine, for speed."""
    with EmbeddedPostgres(server_folders / "postgres", free_ports(1)[0], is_durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def empty_databases(postgres_server: EmbeddedPostgres) -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """Lends an empty database for each test, made while the one before is run."""
    with ThreadPoolExecutor(1) as pool:

        def make() -> str:
            name = f"test_{uuid.uuid4().hex}"
            postgres_server.create_database(name)
            return name

        ready = deque([pool.submit(make)])

        @contextmanager
        def lend() -> Iterator[str]:
            ready.append(pool.submit(make))
            name = ready.popleft().result()
            yield postgres_server.url(name)
            pool.submit(postgres_server.drop_database, name)

        yield lend


@pytest.fixture
def database(empty_databases: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """URL (superuser) of an empty database that is dropped after the test."""
    with empty_databases() as url:
        yield url


@pytest.fixture(scope="session")
def object_store_server(server_folders: Path) -> Iterator[EmbeddedObjectStore]:
    """An S3 store that only this session knows."""
    with EmbeddedObjectStore(server_folders / "store", free_ports(1)[0]) as server:
        yield server


@pytest.fixture(scope="session")
def s3_client(object_store_server: EmbeddedObjectStore) -> S3Client:
    """A client that may do everything in the store."""
    return object_store_server.client()


@dataclass(frozen=True, slots=True)
class Bucket:
    """An empty bucket, a client that may write to it, and the variables with which others find its store."""

    name: str
    client: S3Client
    environment: dict[str, str]

    def put(self, key: str, body: bytes) -> str:
        """Store an object and return its ETag without quotes."""
        return self.client.put_object(Bucket=self.name, Key=key, Body=body)["ETag"].strip('"')


@pytest.fixture
def bucket(object_store_server: EmbeddedObjectStore, s3_client: S3Client) -> Iterator[Bucket]:
    """A fresh bucket that is deleted after the test, with what it holds."""
    name = f"test-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    yield Bucket(name, s3_client, object_store_server.environment())
    s3_client.delete_bucket(Bucket=name)


@pytest.fixture
def no_credentials_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the developer's own credentials nor those of the machine; every store is one of the test's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def default_model_store(pytestconfig: pytest.Config) -> ModelStore:
    """A model store with the bundled model. Read it only: later sessions find it until what makes it changes.

    Its files are checked against its manifest each time, so that a damaged one is built again.
    """
    assert pytestconfig.cache is not None
    folders = (pytestconfig.rootpath / "inference" / part for part in ("models", "engines"))
    sources = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in {".py", ".csv"})
    key = hashlib.sha256()
    for path in sources:
        if path.name not in {"cache.py", "card.py", "registry.py", "shared_store.py"}:
            key.update(path.read_bytes())
    for package in ("tensorflow", "keras", "ai-edge-litert", WEIGHTS_PACKAGE):
        key.update(importlib.metadata.version(package).encode())
    kept = Path(pytestconfig.cache.mkdir("default-model"))
    for former in sorted(kept.iterdir(), key=lambda path: path.stat().st_mtime)[:-4]:
        shutil.rmtree(former, ignore_errors=True)
    store = ModelStore(kept / key.hexdigest()[:16])
    ensure_default_model(store)
    return store
