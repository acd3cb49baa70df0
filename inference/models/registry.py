"""models: which model versions the results database knows, and what each alias names. Opens no connection itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from inference.errors import ModelFilesError, ModelInUseError, ModelUnknownError
from inference.types import ModelId

if TYPE_CHECKING:
    from psycopg import Connection

    from inference.models.manifest import Manifest

PRODUCTION = "production"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model version as the results database knows it."""

    model_id: ModelId
    source: str
    aliases: tuple[str, ...]
    """The aliases that name it now, sorted."""
    registered_at: datetime


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
    if source_of(connection, manifest.model_id) is not None:
        check_registered(connection, manifest)


def source_of(connection: Connection[Any], model: ModelId) -> str | None:
    """Return where a registered version comes from, or None if it is not registered."""
    row = connection.execute(
        "SELECT source FROM nightlabel.model WHERE name = %s AND version = %s", [model.name, model.version]
    ).fetchone()
    return None if row is None else str(row[0])


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


def name_alias(connection: Connection[Any], alias: str, model: ModelId, *, reason: str) -> None:
    """Let an alias name a registered model from now on; its history is kept. Harmless when it does already.

    Raises:
        ModelUnknownError: the model is not registered.
        ModelInUseError: its outcomes are being dropped.
    """
    with connection.transaction():
        # Two promotions at once wait for each other here.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('nightlabel.model_alias'))")
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
            return
        if is_dropped:
            raise ModelInUseError.being_dropped(model)
        connection.execute(
            "UPDATE nightlabel.model_alias SET valid_to = clock_timestamp() WHERE alias = %s AND valid_to IS NULL",
            [alias],
        )
        connection.execute(
            "INSERT INTO nightlabel.model_alias (alias, model_id, valid_from, reason) "
            "VALUES (%s, %s, clock_timestamp(), %s)",
            [alias, model_key, reason],
        )


def find_alias(connection: Connection[Any], alias: str) -> ModelId | None:
    """Return what an alias names now, or None."""
    row = connection.execute(
        "SELECT m.name, m.version FROM nightlabel.model_alias a JOIN nightlabel.model m USING (model_id) "
        "WHERE a.alias = %s AND a.valid_to IS NULL",
        [alias],
    ).fetchone()
    return None if row is None else ModelId(*row)


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
