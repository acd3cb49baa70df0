"""Builds what the library needs out of Airflow's connections. Loads boto3 and the database driver when called."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from inference.errors import SettingsError

if TYPE_CHECKING:
    import boto3
    from airflow.sdk import Connection

    from inference.models.store import ModelStore
    from inference.ports import ObjectStore
    from inference.settings import Settings
    from inference.sinks.postgres import PostgresSink

IMAGES_CONNECTION = "images_s3"
MODELS_CONNECTION = "model_store_s3"
RESULTS_CONNECTION = "results_db"
OWNER_CONNECTION = "results_db_owner"

# What libpq knows and a connection's extra may hold; other keys of the extra are Airflow's or its hooks' business.
LIBPQ_PARAMETERS = frozenset(
    {
        "application_name", "channel_binding", "client_encoding", "connect_timeout", "gssencmode", "hostaddr",
        "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname",
        "load_balance_hosts", "options", "passfile", "require_auth", "service", "sslcert", "sslcrl", "sslkey",
        "sslmode", "sslpassword", "sslrootcert", "target_session_attrs", "tcp_user_timeout",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """Where the images are."""

    bucket: str
    prefix: str


def get_connection(conn_id: str, *, kind: str, purpose: str) -> Connection:
    """Return a connection.

    Args:
        conn_id: Its id in Airflow.
        kind: The connection type that it must have.
        purpose: What it is for, for the message.

    Raises:
        SettingsError: it does not exist, or is of another type.
    """
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection: Connection = Connection.get(conn_id)
    except AirflowNotFoundException:
        raise SettingsError(
            f"The Airflow connection {conn_id!r} does not exist; create one of type {kind!r} for {purpose}"
        ) from None
    if (connection.conn_type or kind).lower() != kind:
        raise SettingsError(
            f"The Airflow connection {conn_id!r} is of type {connection.conn_type!r}, expected {kind!r} for {purpose}"
        )
    return connection


def extra_of(connection: Connection) -> dict[str, Any]:
    """Return a connection's extra.

    Raises:
        SettingsError: it is no JSON object.
    """
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError as error:
        raise SettingsError(
            f"The extra of the Airflow connection {connection.conn_id!r} is no JSON ({error}); correct it"
        ) from None
    if not isinstance(extra, dict):
        raise SettingsError(f"The extra of the Airflow connection {connection.conn_id!r} is no JSON object; correct it")
    return extra


def database_url(connection: Connection) -> str:
    """Return the address of a Postgres connection, with every part quoted and the extra's libpq parameters.

    A host that begins with a slash is the folder of a Unix socket.
    """
    parameters = {
        key: str(value) for key, value in sorted(extra_of(connection).items()) if key in LIBPQ_PARAMETERS and value
    }
    host = connection.host or ""
    if host.startswith("/"):
        parameters["host"] = host
        host = ""
    elif ":" in host and not host.startswith("["):
        host = f"[{host}]"  # an IPv6 address
    user = "" if connection.login is None else quote(connection.login, safe="")
    if connection.password:
        user += ":" + quote(connection.password, safe="")
    place = host
    if connection.port:
        if host:
            place += f":{connection.port}"
        else:
            parameters["port"] = str(connection.port)
    query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
    return f"postgresql://{user}{'@' if user else ''}{place}/{quote(connection.schema or '', safe='')}{query}"


def source_from(connection: Connection, *, bucket: str, prefix: str) -> Source:
    """Return where the images are: as given, or by default as the connection's extra says.

    A default prefix belongs to the default bucket: with a bucket given, the prefix is taken as given, even if empty.

    Raises:
        SettingsError: neither names a bucket.
    """
    if bucket:
        return Source(bucket, prefix)
    extra = extra_of(connection)
    if not extra.get("bucket"):
        raise SettingsError(
            f"No bucket was given; fill in the parameter 'bucket', or put \"bucket\" into the extra "
            f"of the Airflow connection {connection.conn_id!r}"
        )
    return Source(str(extra["bucket"]), prefix or str(extra.get("prefix") or ""))


def default_source(*, bucket: str, prefix: str) -> Source:
    """Return where the images are, by the parameters and the connection ``images_s3``."""
    return source_from(_images_connection(), bucket=bucket, prefix=prefix)


def open_settings(conn_id: str = RESULTS_CONNECTION, *, purpose: str = "the results database") -> Settings:
    """Read the settings: the database from a connection, the rest from this worker's environment.

    Without the share of a shadow: the Dag's form has it, and one that is none must not stop a night.
    """
    from inference.settings import read_settings

    connection = get_connection(conn_id, kind="postgres", purpose=purpose)
    return read_settings(database_url=database_url(connection), shadow_share=0.0)


def open_owner_settings() -> Settings:
    """Read the settings with the database as its owner sees it, from the connection ``results_db_owner``."""
    return open_settings(OWNER_CONNECTION, purpose="the results database, with a login in nightlabel_owner")


def open_store(settings: Settings) -> ObjectStore:
    """Open the store of the connection ``images_s3``; roles, profiles and endpoints work as in Airflow's own hooks."""
    from inference import wiring

    _images_connection()  # the hook would silently use whatever credentials the machine has
    session, endpoint_url = _session_of(IMAGES_CONNECTION)
    return wiring.open_store(settings, session=session, endpoint_url=endpoint_url)


def open_model_store(settings: Settings) -> ModelStore:
    """Open the model store of this worker's settings.

    One in a bucket is asked with the connection ``model_store_s3`` where there is one, and with the worker's own
    ``AWS_*`` variables, profile or role otherwise. Never with ``images_s3``: that may lead to somebody else's service,
    and its keys need no right to the models.

    Raises:
        SettingsError: the connection is of another type than ``aws``.
    """
    from pathlib import Path

    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    from inference import wiring

    if isinstance(settings.model_store, Path):
        return wiring.open_model_store(settings)
    try:
        Connection.get(MODELS_CONNECTION)
    except AirflowNotFoundException:
        return wiring.open_model_store(settings)
    get_connection(MODELS_CONNECTION, kind="aws", purpose="the bucket of the model store")
    session, endpoint_url = _session_of(MODELS_CONNECTION)
    return wiring.open_model_store(settings, session=session, endpoint_url=endpoint_url)


def _session_of(conn_id: str) -> tuple[boto3.Session, str | None]:
    """Return a session as an aws connection describes it, and the address of its S3 service if that names one."""
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    hook: AwsGenericHook[Any] = AwsGenericHook(aws_conn_id=conn_id, client_type="s3")
    session = hook.get_session()
    # The extra's config_kwargs (a proxy, path-style addresses) and verify (a CA file, or false) become the session's
    # defaults: the store makes its own client, with its own time-outs, out of the session.
    session._session.set_default_client_config(hook.config)
    if hook.verify is not None:
        session._session.set_config_variable("ca_bundle", hook.verify)
    return session, hook.conn_config.get_service_endpoint_url("s3")


def open_sink(settings: Settings) -> PostgresSink:
    """Connect to the results database."""
    from inference import wiring

    return wiring.open_sink(settings)


def _images_connection() -> Connection:
    return get_connection(IMAGES_CONNECTION, kind="aws", purpose="the bucket of images")
