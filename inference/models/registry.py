"""models: which model versions the results database knows, and what each alias names. Opens no connection itself."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from inference.errors import AliasMovedError, ModelFilesError, ModelInUseError, ModelUnknownError, SettingsError
from inference.types import Label, LabelMap, ModelId

if TYPE_CHECKING:
    from psycopg import Connection

    from inference.models.manifest import Manifest

PRODUCTION: Final = "production"
CANDIDATE: Final = "candidate"
SHADOW: Final = "shadow"
ALIASES: Final = (PRODUCTION, CANDIDATE, SHADOW)


class Seen(Enum):
    """Stands for what an alias names, where nobody has looked."""

    WHATEVER = "whatever"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model version as the results database knows it."""

    model_id: ModelId
    source: str
    aliases: tuple[str, ...]
    """The aliases that name it now, sorted."""
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class AliasSpan:
    """For how long an alias named a model version, and who had it do so."""

    alias: str
    model: ModelId
    valid_from: datetime
    valid_to: datetime | None
    """None while it holds."""
    changed_by: str
    """The login that moved the alias here."""
    approved_by: str | None
    """Who said yes in Airflow."""
    reason: str
    is_forced: bool
    """Whether the gate was overridden."""
    check_id: int | None
    ended_by: str | None
    ended_reason: str | None


def register(connection: Connection[Any], manifest: Manifest) -> None:
    """Make a model version known and give it a place in the ledger; harmless when it is known with the same files.

    Raises:
        ModelFilesError: it is known with other files, labels or preprocessing.
    """
    from psycopg.types.json import Jsonb

    facts = _facts_of(manifest)
    with connection.transaction():
        connection.execute(
            "INSERT INTO nightlabel.model (name, version, source, licence, files, label_map, preprocessing, artefacts) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (name, version) DO NOTHING",
            [
                manifest.name,
                manifest.version,
                manifest.source,
                manifest.licence,
                Jsonb(manifest.files),
                Jsonb(facts["label_map"]),
                Jsonb(facts["preprocessing"]),
                Jsonb(facts["artefacts"]),
            ],
        )
        check_registered(connection, manifest)
        connection.execute(
            "SELECT nightlabel.add_outcome_partition(model_id) FROM nightlabel.model WHERE name = %s AND version = %s",
            [manifest.name, manifest.version],
        )


@dataclass(frozen=True, slots=True)
class RegisteredFacts:
    """What the results database holds of a model version that changes files or answers."""

    model_id: ModelId
    files: dict[str, str]
    label_map: list[list[str]]
    preprocessing: dict[str, Any]
    artefacts: dict[str, Any]

    def matches(self, manifest: Manifest) -> bool:
        """Whether a manifest is the registered one's, as far as files and answers go."""
        return self.difference(manifest) is None

    def difference(self, manifest: Manifest) -> str | None:
        """Return what of a manifest is not as it was registered, in words; None if nothing is.

        What a manifest says besides, such as fields that are newer than the registration, is no difference.
        """
        if self.files != manifest.files:
            names = {*self.files, *manifest.files}
            changed = sorted(path for path in names if self.files.get(path) != manifest.files.get(path))
            return f"with other files than the model store holds ({changed[0]} differs)"
        facts = _facts_of(manifest)
        for name, found in facts.items():
            if not _holds(found, getattr(self, name)):
                return f"with another {_COLUMNS[name]} than the model store's manifest has"
        return None


def find_registered(connection: Connection[Any], model: ModelId) -> RegisteredFacts:
    """Return what was registered under a name and version.

    Raises:
        ModelUnknownError: nothing was.
    """
    row = connection.execute(
        "SELECT files, label_map, preprocessing, artefacts FROM nightlabel.model WHERE name = %s AND version = %s",
        [model.name, model.version],
    ).fetchone()
    if row is None:
        raise ModelUnknownError(f"{model} is not registered; run `python -m inference migrate`")
    return RegisteredFacts(model, *row)


def claim(connection: Connection[Any], manifest: Manifest) -> None:
    """Keep other registrations of this version waiting until the transaction ends, and refuse to be another model.

    Raises:
        ModelFilesError: the version is registered with other files.
    """
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtext('nightlabel.model'), hashtext(%s))", [str(manifest.model_id)]
    )
    with suppress(ModelUnknownError):
        check_registered(connection, manifest)


def check_registered(connection: Connection[Any], manifest: Manifest) -> None:
    """Compare a manifest of the model store with what was registered under its name and version.

    Raises:
        ModelUnknownError: it is not registered.
        ModelFilesError: something else was registered.
    """
    refuse_unregistered(find_registered(connection, manifest.model_id), manifest)


def refuse_unregistered(registered: RegisteredFacts, manifest: Manifest) -> None:
    """Refuse a manifest that is not the registered one.

    Raises:
        ModelFilesError: names the first difference.
    """
    if difference := registered.difference(manifest):
        raise ModelFilesError(
            f"{manifest.model_id} is registered {difference}; copy it from the store where it was registered, or "
            "register this one under a version of its own"
        )


_COLUMNS: Final = {"label_map": "label map", "preprocessing": "preprocessing or output", "artefacts": "set of engines"}
"""What a difference in a column is called."""


def _facts_of(manifest: Manifest) -> dict[str, Any]:
    """Return what is registered of a manifest besides its files, column by column, as JSON has it."""
    return {
        "label_map": [[label.label_id, label.name] for label in manifest.labels],
        "preprocessing": manifest.treatment,
        "artefacts": manifest.model_dump(mode="json", include={"engines"})["engines"],
    }


def _holds(found: Any, registered: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether JSON holds what was registered; objects may hold more."""
    if isinstance(found, dict) and isinstance(registered, dict):
        return all(name in found and _holds(found[name], value) for name, value in registered.items())
    return bool(found == registered)


def name_alias(
    connection: Connection[Any],
    alias: str,
    model: ModelId,
    *,
    reason: str,
    expected: ModelId | Seen | None = Seen.WHATEVER,
    approved_by: str | None = None,
    check_id: int | None = None,
    is_forced: bool = False,
) -> bool:
    """Let an alias name a registered model from now on; its history is kept. Harmless when it does already.

    Args:
        connection: Of somebody who may move aliases: the owner.
        alias: The name that moves.
        model: What it is to name.
        reason: Why, for its history.
        expected: What it named when somebody decided this; None for nothing. Two who decide at once on what they saw
            cannot both have their way: the second is refused.
        approved_by: Who said yes, where that is not the login of the connection.
        check_id: The check that the decision rests on.
        is_forced: Whether the gate was overridden.

    Returns:
        Whether it moved.

    Raises:
        ModelUnknownError: the model is not registered.
        ModelInUseError: its outcomes are being dropped.
        AliasMovedError: the alias names something else than ``expected``.
    """
    with connection.transaction():
        lock_aliases(connection)
        row = connection.execute(
            "SELECT m.model_id, EXISTS (SELECT FROM nightlabel.model_alias a "
            "WHERE a.alias = %s AND a.model_id = m.model_id AND a.valid_to IS NULL), "
            "EXISTS (SELECT FROM nightlabel.dropped_model d WHERE d.model_id = m.model_id AND d.ended_at IS NULL) "
            "FROM nightlabel.model m WHERE name = %s AND version = %s",
            [alias, model.name, model.version],
        ).fetchone()
        if row is None:
            raise ModelUnknownError(f"{model} is not registered; `python -m inference models list` shows what is")
        model_key, is_current, is_dropped = row
        if is_current:
            return False
        check_seen(connection, alias, expected)
        if is_dropped:
            raise ModelInUseError.being_dropped(model)
        _end_span(connection, alias, reason)
        connection.execute(
            "INSERT INTO nightlabel.model_alias "
            "(alias, model_id, valid_from, reason, approved_by, check_id, is_forced) "
            "VALUES (%s, %s, clock_timestamp(), %s, %s, %s, %s)",
            [alias, model_key, reason, approved_by, check_id, is_forced],
        )
        return True


def take_alias_away(
    connection: Connection[Any], alias: str, *, reason: str, expected: ModelId | Seen | None = Seen.WHATEVER
) -> ModelId | None:
    """Let an alias name nothing from now on and return what it named; None, and harmless, when it named nothing.

    Args:
        connection: Of somebody who may move aliases: the owner.
        alias: The name; not ``production``, without which no night has a model.
        reason: Why, for its history.
        expected: As of ``name_alias``.

    Raises:
        SettingsError: it is ``production``.
        AliasMovedError: the alias names something else than ``expected``.
    """
    if alias == PRODUCTION:
        raise SettingsError(
            "production cannot be taken away, since no night would have a model; promote another model instead"
        )
    with connection.transaction():
        lock_aliases(connection)
        if (model := find_alias(connection, alias)) is not None:
            check_seen(connection, alias, expected)
            _end_span(connection, alias, reason)
        return model


def lock_aliases(connection: Connection[Any]) -> None:
    """Have whoever else wants to move an alias wait until the end of this transaction."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('nightlabel.model_alias'))")


def _end_span(connection: Connection[Any], alias: str, reason: str) -> None:
    connection.execute(
        "UPDATE nightlabel.model_alias SET valid_to = clock_timestamp(), ended_by = session_user, ended_reason = %s "
        "WHERE alias = %s AND valid_to IS NULL",
        [reason, alias],
    )


def check_seen(connection: Connection[Any], alias: str, expected: ModelId | Seen | None) -> None:
    """Refuse to go on if an alias names something else than somebody saw it name.

    Raises:
        AliasMovedError: says what, since when, and by whom.
    """
    if expected is Seen.WHATEVER:
        return
    spans = alias_history(connection, alias=alias, limit=1)
    present = spans[0].model if spans and spans[0].valid_to is None else None
    if present == expected:
        return
    since = "never named any"
    if spans:
        [span] = spans
        by, why, at = (
            (span.approved_by or span.changed_by, span.reason, span.valid_from)
            if span.valid_to is None
            else (span.ended_by or "somebody", span.ended_reason or "no reason noted", span.valid_to)
        )
        since = f"changed at {at:%Y-%m-%d %H:%M:%S} UTC by {by} ({why})"
    raise AliasMovedError(
        f"{alias} names {present or 'no model'} and not {expected or 'none'}, as this was decided on: it {since}; look "
        "at `python -m inference models history`, and decide again"
    )


def read_label_map(connection: Connection[Any], model: ModelId) -> LabelMap:
    """Return the label map of a registered model.

    Raises:
        ModelUnknownError: it is not registered.
    """
    row = connection.execute(
        "SELECT label_map FROM nightlabel.model WHERE name = %s AND version = %s", [model.name, model.version]
    ).fetchone()
    if row is None:
        raise ModelUnknownError(f"{model} is not registered; `python -m inference models list` shows what is")
    return tuple(Label(name=name, label_id=label_id) for label_id, name in row[0])


def find_alias(connection: Connection[Any], alias: str) -> ModelId | None:
    """Return what an alias names now, or None."""
    row = connection.execute(
        "SELECT m.name, m.version FROM nightlabel.model_alias a JOIN nightlabel.model m USING (model_id) "
        "WHERE a.alias = %s AND a.valid_to IS NULL",
        [alias],
    ).fetchone()
    return None if row is None else ModelId(*row)


def alias_history(
    connection: Connection[Any], *, alias: str | None = None, model: ModelId | None = None, limit: int | None = None
) -> list[AliasSpan]:
    """Return what aliases named and name, the newest first.

    Args:
        connection: Any that may read the tables.
        alias: Only this one.
        model: Only spans of this model version.
        limit: Most spans; None for all.
    """
    rows = connection.execute(
        "SELECT a.alias, m.name, m.version, a.valid_from, a.valid_to, a.changed_by, a.approved_by, a.reason, "
        "a.is_forced, a.check_id, a.ended_by, a.ended_reason "
        "FROM nightlabel.model_alias a JOIN nightlabel.model m USING (model_id) "
        "WHERE (%(alias)s::text IS NULL OR a.alias = %(alias)s) "
        "AND (%(name)s::text IS NULL OR (m.name, m.version) = (%(name)s, %(version)s)) "
        "ORDER BY a.valid_from DESC, a.alias LIMIT %(limit)s",
        {
            "alias": alias,
            "name": model and model.name,
            "version": model and model.version,
            "limit": limit,
        },
    ).fetchall()
    return [AliasSpan(alias, ModelId(name, version), *rest) for alias, name, version, *rest in rows]


def list_models(connection: Connection[Any]) -> list[RegisteredModel]:
    """Return every registered model version, oldest first."""
    rows = connection.execute(
        "SELECT m.name, m.version, m.source, m.registered_at, "
        "array_remove(array_agg(a.alias ORDER BY a.alias) FILTER (WHERE a.valid_to IS NULL), NULL) "
        "FROM nightlabel.model m LEFT JOIN nightlabel.model_alias a USING (model_id) "
        "GROUP BY m.model_id ORDER BY m.model_id"
    ).fetchall()
    return [
        RegisteredModel(ModelId(name, version), source, tuple(aliases or ()), registered_at)
        for name, version, source, registered_at, aliases in rows
    ]
