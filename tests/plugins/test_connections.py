"""What the library gets out of Airflow's connections."""

import json

import pytest
from airflow.sdk import Connection
from nightlabel_airflow.connections import Source, database_url, get_connection, source_from
from psycopg.conninfo import conninfo_to_dict

from inference.errors import ConfigurationError, SettingsError


def postgres(**parts) -> Connection:
    return Connection(conn_id="results_db", conn_type="postgres", **parts)


def read_by_driver(connection: Connection) -> dict[str, str]:
    return {key: value for key, value in conninfo_to_dict(database_url(connection)).items() if value != ""}


def test_the_driver_reads_what_the_connection_says():
    connection = postgres(host="db.example", port=5433, login="nightlabel", password="secret", schema="results")

    assert read_by_driver(connection) == {
        "host": "db.example", "port": "5433", "user": "nightlabel", "password": "secret", "dbname": "results",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["p@ss/w:rd", "%41", "a b", "ä€😀", "?&=#", "'\"\\", "+", "@", "[::1]"])
def test_special_characters_arrive_as_they_are(text):
    connection = postgres(host="h", login=text, password=text, schema=text)

    parts = read_by_driver(connection)

    assert (parts["user"], parts["password"], parts["dbname"]) == (text, text, text)


def test_tls_settings_of_the_extra_are_honoured_and_the_hooks_own_are_left_out():
    connection = postgres(
        host="h",
        extra='{"sslmode": "verify-full", "sslrootcert": "/certs/my ca.pem", "cursor": "dictcursor", "iam": true}',
    )

    parts = read_by_driver(connection)

    assert parts == {"host": "h", "sslmode": "verify-full", "sslrootcert": "/certs/my ca.pem"}


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("/var/run/my postgres", 5433, {"host": "/var/run/my postgres", "port": "5433"}),
        ("::1", 5432, {"host": "::1", "port": "5432"}),
        (None, 5432, {"port": "5432"}),
        (None, None, {}),
    ],
)
def test_sockets_and_addresses_arrive(host, port, expected):
    assert read_by_driver(postgres(host=host, port=port)) == expected


def test_the_url_is_one_that_the_settings_take():
    from inference.settings import read_settings

    url = database_url(postgres(host="h", login="u", password="p@ss", schema="d"))

    assert read_settings(database_url=url).required_database_url() == "postgresql://u:p%40ss@h/d"


def images(extra: str | None = None) -> Connection:
    return Connection(conn_id="images_s3", conn_type="aws", extra=extra)


@pytest.mark.parametrize(
    ("bucket", "prefix", "expected"),
    [
        ("", "", Source("photos", "in/")),
        ("", "in/2026/", Source("photos", "in/2026/")),
        ("other", "", Source("other", "")),
        ("other", "x", Source("other", "x")),
    ],
    ids=["both by default", "default bucket", "a default prefix is not for another bucket", "both given"],
)
def test_bucket_and_prefix_default_to_the_connection(bucket, prefix, expected):
    assert source_from(images('{"bucket": "photos", "prefix": "in/"}'), bucket=bucket, prefix=prefix) == expected


def test_no_bucket_anywhere_is_said_in_one_sentence():
    with pytest.raises(SettingsError, match=r"No bucket was given; fill in the parameter 'bucket', or put .*images_s3"):
        source_from(images(), bucket="", prefix="")


@pytest.mark.parametrize("extra", ["not json", "[1, 2]"])
def test_an_extra_that_cannot_be_read_names_the_connection(extra):
    with pytest.raises(SettingsError, match=r"extra of the Airflow connection 'images_s3' is no JSON.*correct it"):
        source_from(images(extra), bucket="", prefix="")


def test_a_missing_connection_is_said_in_one_sentence():
    with pytest.raises(ConfigurationError) as caught:
        get_connection("images_s3", kind="aws", purpose="the bucket of images")

    assert str(caught.value) == (
        "The Airflow connection 'images_s3' does not exist; create one of type 'aws' for the bucket of images"
    )
    assert caught.value.__suppress_context__, "the operator reads our sentence, not Airflow's traceback before it"


def test_a_connection_of_another_type_is_refused(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_RESULTS_DB", "mysql://user@host/results")

    with pytest.raises(SettingsError, match="'results_db' is of type 'mysql', expected 'postgres'"):
        get_connection("results_db", kind="postgres", purpose="the results database")


def test_the_store_gets_endpoint_region_keys_and_client_settings_of_the_connection(monkeypatch):
    from nightlabel_airflow.connections import open_store

    from inference.settings import read_settings

    extra = {
        "endpoint_url": "https://store.example:8333",
        "region_name": "eu-central-1",
        "verify": "/certs/ca.pem",
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    described = {"conn_type": "aws", "login": "AKIDEXAMPLE", "password": "a+secret/key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES_S3", json.dumps(described))

    client = open_store(read_settings())._client

    keys = client._request_signer._credentials.get_frozen_credentials()
    assert (keys.access_key, keys.secret_key) == ("AKIDEXAMPLE", "a+secret/key")
    assert client.meta.endpoint_url == "https://store.example:8333"
    assert client.meta.region_name == "eu-central-1"
    assert client.meta.config.s3 == {"addressing_style": "path"}
    assert client._endpoint.http_session._verify == "/certs/ca.pem"


def test_without_the_connection_no_credentials_of_the_machine_are_used(monkeypatch):
    from nightlabel_airflow.connections import open_store

    from inference.settings import read_settings

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the machine's")

    with pytest.raises(ConfigurationError, match="connection 'images_s3' does not exist"):
        open_store(read_settings())


def models(extra: dict[str, object] | None = None, **parts: str) -> str:
    return json.dumps({"conn_type": "aws", "extra": extra or {}, **parts})


def client_of(store):
    return store.files._store._client


def test_a_model_store_in_a_bucket_has_a_connection_of_its_own(monkeypatch, tmp_path):
    from nightlabel_airflow.connections import open_model_store

    from inference.settings import read_settings

    extra = {"endpoint_url": "https://models.example:8333", "region_name": "eu-central-1"}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE_S3", models(extra, login="AKIDMODELS", password="its secret"))
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES_S3", models({"endpoint_url": "https://images.example"}, login="AKIDIMAGES"))

    store = open_model_store(read_settings(model_store="s3://models/team", model_cache=tmp_path))

    client = client_of(store)
    assert store.place == "s3://models/team"
    assert client._request_signer._credentials.get_frozen_credentials().access_key == "AKIDMODELS"
    assert (client.meta.endpoint_url, client.meta.region_name) == ("https://models.example:8333", "eu-central-1")


def test_without_that_connection_the_workers_own_variables_hold_and_never_images_s3(monkeypatch, tmp_path):
    from nightlabel_airflow.connections import open_model_store

    from inference.settings import read_settings

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://worker.example")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDWORKER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "its secret")
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES_S3", models({"endpoint_url": "https://images.example"}, login="AKIDIMAGES"))

    client = client_of(open_model_store(read_settings(model_store="s3://models/team", model_cache=tmp_path)))

    assert client._request_signer._credentials.get_frozen_credentials().access_key == "AKIDWORKER"
    assert client.meta.endpoint_url == "https://worker.example"


def test_a_connection_for_models_of_another_type_is_refused(monkeypatch):
    from nightlabel_airflow.connections import open_model_store

    from inference.settings import read_settings

    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE_S3", "postgres://user@host/models")

    with pytest.raises(SettingsError, match="'model_store_s3' is of type 'postgres', expected 'aws'"):
        open_model_store(read_settings(model_store="s3://models/team"))


def test_a_model_store_in_a_folder_needs_no_connection(monkeypatch, tmp_path):
    from nightlabel_airflow.connections import open_model_store

    from inference.settings import read_settings

    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE_S3", "postgres://user@host/models")

    assert open_model_store(read_settings(model_store=tmp_path)).place == str(tmp_path)
