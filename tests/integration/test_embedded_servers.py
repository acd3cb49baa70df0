"""The servers of the embedded stack, for real: closed to strangers, on loopback only, and what they keep survives."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import boto3
import psycopg
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from inference.settings import read_settings
from inference.sinks.migrating import migrate
from local_stack.databases import GROUPS, airflow_login, prepare_databases, results_login
from local_stack.object_store import EmbeddedObjectStore
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import (
    LOOPBACK,
    ProcessIdentity,
    StackError,
    families,
    free_ports,
    private_folder,
    wait_until,
)
from local_stack.settings import StackSettings
from local_stack.stack import Stack
from tests.listening import LOOPBACK_AS_WRITTEN, listening_addresses

pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).parents[2]


def modes(folder: Path) -> dict[str, int]:
    """Return the modes of the files that lie in a folder itself."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def test_postgres_lets_nobody_in_without_the_password(postgres_server: EmbeddedPostgres):
    address = f"host={LOOPBACK} port={postgres_server.port} user=postgres dbname=postgres"
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(address)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"{address} password=postgres")


def test_postgres_keeps_passwords_as_scram_only(postgres_server: EmbeddedPostgres):
    with postgres_server.connect() as connection:
        rules = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
    assert rules == [("scram-sha-256",)]


def test_postgres_listens_on_loopback_only(postgres_server: EmbeddedPostgres):
    assert postgres_server.server.identity
    listening = listening_addresses(families([postgres_server.server.identity]))
    assert set(listening.values()) == {LOOPBACK_AS_WRITTEN}


def test_postgres_keeps_its_data_and_its_password_over_a_restart_in_a_deep_folder(server_folder: Path, port: int):
    folder = server_folder / ("deeper" * 12) / ("deeper still" * 8)  # no Unix socket fits a path like this
    with EmbeddedPostgres(folder, port, is_durable=False) as first:
        url = first.url("kept")
        first.create_database("kept")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE answer AS SELECT 42 AS number")
    with EmbeddedPostgres(folder, port, is_durable=False), psycopg.connect(url) as connection:
        assert connection.execute("SELECT number FROM answer").fetchone() == (42,)
    assert modes(folder) == {"superuser.password": 0o600, "postgres.log": 0o600, "postgres.log.1": 0o600}
    assert not stat.S_IMODE(folder.stat().st_mode) & 0o007


def test_postgres_names_a_taken_port_and_what_changes_it(server_folder: Path, port: int):
    with socket.create_server((LOOPBACK, port)), pytest.raises(StackError) as caught:
        EmbeddedPostgres(server_folder / "postgres", port).start()
    assert str(caught.value) == (
        f"Postgres cannot listen on 127.0.0.1:{port} because another program has that port; "
        "stop that program or choose another port by NIGHTLABEL_POSTGRES_PORT."
    )


def test_a_second_postgres_on_the_same_folder_is_refused(postgres_server: EmbeddedPostgres, port: int):
    with pytest.raises(StackError, match="already runs on"):
        EmbeddedPostgres(postgres_server.folder, port).start()
    private_folder(postgres_server.folder)  # as every command of the stack does with the folder that it keeps
    with postgres_server.connect() as connection:
        connection.execute("CHECKPOINT")  # opens files by their whole path; a server that cannot gives itself up


def test_postgres_starts_again_where_it_was_killed_and_nobody_has_reaped_it(server_folder: Path, port: int):
    with EmbeddedPostgres(server_folder, port) as server:
        server.create_database("kept")
        os.kill(server.server.pid, signal.SIGKILL)
        assert wait_until(lambda: ProcessIdentity.of(server.server.pid) is None, 5)
        assert Path(f"/proc/{server.server.pid}").exists(), "the one who started it has not asked for its end"
        with EmbeddedPostgres(server_folder, port) as again, again.connect("kept"):
            pass


def test_a_server_that_dies_at_the_start_is_named_with_the_end_of_its_log(server_folder: Path, port: int):
    with EmbeddedPostgres(server_folder / "postgres", port, is_durable=False) as server:
        pass
    (server.data / "PG_VERSION").write_text("9\n", encoding="ascii")
    with pytest.raises(StackError) as caught:
        server.start()
    assert "Postgres ended with exit code 1" in str(caught.value)
    assert str(server.folder / "postgres.log") in str(caught.value)
    assert "The data directory was initialized by PostgreSQL version 9" in str(caught.value)


@pytest.mark.parametrize("server", ["postgres.EmbeddedPostgres", "object_store.EmbeddedObjectStore"])
def test_a_killed_parent_takes_its_servers_along(server_folder: Path, port: int, server: str):
    module, name = server.split(".")
    script = (
        f"import sys, time; from pathlib import Path; from local_stack.{module} import {name}\n"
        f"server = {name}(Path(sys.argv[1]), int(sys.argv[2])); server.start()\n"
        "print(server.server.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(server_folder / "data"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout
        leader = ProcessIdentity.of(int(parent.stdout.readline()))
        assert leader
        assert families([leader])
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not families([leader]), 10)
    EmbeddedObjectStore(server_folder / "data", port).remove_sockets()


@pytest.fixture(scope="module")
def prepared_postgres(server_folders: Path) -> Iterator[tuple[EmbeddedPostgres, Path]]:
    secrets = private_folder(server_folders / "secrets")
    with EmbeddedPostgres(server_folders / "prepared", free_ports(1)[0], is_durable=False) as server:
        prepare_databases(server, secrets)
        prepare_databases(server, secrets)  # as at every later start
        yield server, secrets


def test_airflow_and_the_results_do_not_see_each_other(prepared_postgres: tuple[EmbeddedPostgres, Path]):
    server, secrets = prepared_postgres
    airflow = airflow_login(secrets, server.port)
    with psycopg.connect(airflow.url()) as connection:
        connection.execute("CREATE TABLE of_airflow ()")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(server.url("nightlabel", user=airflow.user, password=airflow.password))
    for group in GROUPS:
        login = results_login(secrets, server.port, group)
        with psycopg.connect(login.url()) as connection:
            assert connection.execute("SHOW search_path").fetchone() == ("nightlabel, public",)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(server.url("airflow", user=login.user, password=login.password))


def test_only_the_owner_makes_schemas_and_they_belong_to_the_group(prepared_postgres: tuple[EmbeddedPostgres, Path]):
    server, secrets = prepared_postgres
    for group in ("nightlabel_writer", "nightlabel_reader"):
        with (
            psycopg.connect(results_login(secrets, server.port, group).url()) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("CREATE SCHEMA nightlabel")
    with psycopg.connect(results_login(secrets, server.port, "nightlabel_owner").url()) as connection:
        connection.execute("CREATE SCHEMA nightlabel")
        query = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'nightlabel'"
        assert connection.execute(query).fetchone() == ("nightlabel_owner",)
        connection.rollback()


def test_the_connections_of_the_stack_have_the_rights_of_their_roles_and_no_more(server_folder: Path):
    """As Airflow's tasks find them: in the environment that the stack gives it."""
    port = free_ports(1)[0]
    folders = {"NIGHTLABEL_STATE": str(server_folder / "state"), "NIGHTLABEL_POSTGRES_PORT": str(port)}
    stack = Stack(StackSettings.read(folders), {"PATH": os.environ["PATH"]})
    stack.postgres.is_durable = False
    environment = stack.airflow.environment()

    def url(connection_id: str) -> str:
        parts = json.loads(environment[f"AIRFLOW_CONN_{connection_id.upper()}"])
        return f"postgresql://{parts['login']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['schema']}"

    def may(connection_id: str, statement: str) -> bool:
        try:
            with psycopg.connect(url(connection_id)) as connection:
                connection.execute(statement)
                connection.rollback()
        except psycopg.errors.InsufficientPrivilege:
            return False
        return True

    with stack.postgres:
        prepare_databases(stack.postgres, stack.secrets)
        migrate(read_settings(database_url=url("results_db_owner")))
        answers = {
            statement: tuple(may(name, statement) for name in ("results_db_reader", "results_db", "results_db_owner"))
            for statement in (
                "SELECT FROM latest_prediction",
                "SELECT FROM outcome",
                "UPDATE outcome SET attempts = 1",
                "DELETE FROM outcome",
                "TRUNCATE outcome",
                "ALTER TABLE outcome ADD COLUMN a integer",
                "CREATE TABLE nightlabel.mine ()",
                "SELECT forget_names(gen_random_uuid(), 'photos', 'a')",
            )
        }

    assert answers == {
        "SELECT FROM latest_prediction": (True, True, True),
        "SELECT FROM outcome": (False, True, True),
        "UPDATE outcome SET attempts = 1": (False, True, True),
        "DELETE FROM outcome": (False, False, True),
        "TRUNCATE outcome": (False, False, True),
        "ALTER TABLE outcome ADD COLUMN a integer": (False, False, True),
        "CREATE TABLE nightlabel.mine ()": (False, False, True),
        "SELECT forget_names(gen_random_uuid(), 'photos', 'a')": (False, False, True),
    }


def test_the_store_lets_nobody_in_without_a_key(object_store_server: EmbeddedObjectStore):
    anonymous = boto3.client(
        "s3",
        endpoint_url=object_store_server.endpoint_url,
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED),
    )
    for call in (
        anonymous.list_buckets,
        lambda: anonymous.create_bucket(Bucket="strangers"),
        lambda: anonymous.put_object(Bucket="strangers", Key="a", Body=b"a"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            call()


def test_the_stores_reader_lists_and_reads_and_can_do_no_more(object_store_server: EmbeddedObjectStore, bucket):
    bucket.put("a", b"content")
    reader = object_store_server.client(as_reader=True)
    assert [item["Key"] for item in reader.list_objects_v2(Bucket=bucket.name)["Contents"]] == ["a"]
    assert reader.get_object(Bucket=bucket.name, Key="a")["Body"].read() == b"content"
    for call in (
        lambda: reader.put_object(Bucket=bucket.name, Key="b", Body=b""),
        lambda: reader.delete_object(Bucket=bucket.name, Key="a"),
        lambda: reader.create_bucket(Bucket="of-the-reader"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            call()


def test_the_store_listens_on_loopback_only(object_store_server: EmbeddedObjectStore):
    assert object_store_server.server.identity
    listening = listening_addresses(families([object_store_server.server.identity]))
    assert set(listening.values()) == {LOOPBACK_AS_WRITTEN}


def test_the_stores_inner_ports_serve_nobody(object_store_server: EmbeddedObjectStore, bucket):
    bucket.put("a", b"content")
    answers = {}
    for name, port in object_store_server.internal_ports.items():
        if name.endswith("_grpc"):
            continue
        for path in (f"/buckets/{bucket.name}/a", "/dir/assign", "/1,0"):
            connection = HTTPConnection(LOOPBACK, port, timeout=5)
            try:
                connection.request("GET", path)
                answers[name, path] = connection.getresponse().status
            except (OSError, HTTPException):
                answers[name, path] = 0
            finally:
                connection.close()
    assert set(answers.values()) <= {401, 404}


def greet_without_certificate(port: int, context: ssl.SSLContext) -> None:
    with (
        socket.create_connection((LOOPBACK, port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as wrapped,
    ):
        wrapped.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        wrapped.recv(1)  # the refusal comes with the first bytes, after the handshake


def test_the_stores_inner_ports_ask_for_a_certificate(object_store_server: EmbeddedObjectStore):
    context = ssl.create_default_context(cafile=object_store_server.folder / "grpc.crt")
    for name, port in object_store_server.internal_ports.items():
        if not name.endswith("_grpc"):
            continue
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            greet_without_certificate(port, context)


def test_the_store_keeps_objects_and_keys_over_a_restart_even_on_other_inner_ports(server_folder: Path, port: int):
    folder = server_folder / ("deeper" * 20)
    with EmbeddedObjectStore(folder, port) as first:
        first.client().create_bucket(Bucket="kept")
        first.client().put_object(Bucket="kept", Key="a/b", Body=b"content" * 1000)
        pair = (first.access_key, first.secret_key)
        ports = dict(first.internal_ports)
    with socket.create_server((LOOPBACK, ports["master"])), EmbeddedObjectStore(folder, port) as second:
        assert (second.access_key, second.secret_key) == pair
        assert second.internal_ports["master"] != ports["master"]
        assert second.internal_ports != ports
        assert second.client().get_object(Bucket="kept", Key="a/b")["Body"].read() == b"content" * 1000
        second.client().put_object(Bucket="kept", Key="c", Body=b"more")
    assert set(modes(folder).values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{ports['master_grpc']}.sock"))


def test_the_store_names_a_taken_port_and_what_changes_it(server_folder: Path, port: int):
    with socket.create_server((LOOPBACK, port)), pytest.raises(StackError) as caught:
        EmbeddedObjectStore(server_folder / "store", port).start()
    assert str(caught.value) == (
        f"The object store cannot listen on 127.0.0.1:{port} because another program has that port; "
        "stop that program or choose another port by NIGHTLABEL_STORE_PORT."
    )
