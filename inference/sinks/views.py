"""Streams a public view out of the results database, as one snapshot, with no more rights than a reader has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from types import TracebackType
from typing import IO, Any, Final, Self

import psycopg
from psycopg import sql

from inference.errors import SchemaMissingError, SettingsError, SinkCredentialsError
from inference.exporting import ExportFormat, ExportRequest, ViewColumn, write_parquet
from inference.settings import Settings
from inference.sinks.connecting import connect, describe, our_errors

logger = logging.getLogger(__name__)

TIMES: Final = ("predicted_at", "failed_at", "recorded_at", "started_at", "day")
"""What ``since`` and ``until`` go by: the first of these that a view has."""

ROWS_AT_ONCE: Final = 5_000
ROWS_BETWEEN_REPORTS: Final = 1_000

_AS_THEY_ARE: Final = frozenset(
    {"smallint", "integer", "bigint", "real", "double precision", "boolean", "date", "timestamp with time zone", "text"}
)
"""Types that Parquet has as well; others are written as text, but for ``numeric``."""


class ViewExport:
    """Rows of one public view, as they stand when the block is entered. A transaction; to be read once.

    Any login that may read the view will do, and whatever revision the schema is at: nothing but the view is read.

    Args:
        settings: Names the database.
        request: The view and its filters.

    Raises:
        SettingsError: there is no such view, or it lacks what a filter goes by.
        SchemaMissingError, SinkCredentialsError, SinkUnavailableError: it cannot be read.
    """

    def __init__(self, settings: Settings, request: ExportRequest) -> None:
        self._request = request
        self._connection = connect(settings, application="nightlabel export", autocommit=False)
        self._where = describe(self._connection)
        try:
            with our_errors(self._where):
                self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                self._connection.read_only = True
                # Whoever writes to a slow disk or pipe is waited for.
                self._connection.execute("SET LOCAL statement_timeout = 0")
                self._connection.execute("SET LOCAL client_encoding = 'UTF8'")
                self._connection.execute("SET LOCAL datestyle = 'ISO'")
                self._connection.execute("SET LOCAL intervalstyle = 'iso_8601'")
                self.columns = self._find_columns()
            self._filter = self._made_filter()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def write(self, file: IO[bytes], form: ExportFormat, progress: Callable[[int], None] | None = None) -> int:
        """Write every row, with no more than some of them in memory, and return how many there were.

        Args:
            file: Where to.
            form: How; CSV begins with the names of the columns.
            progress: Called with the number of rows every now and then.
        """
        tell = progress or (lambda _rows: None)
        with our_errors(self._where):
            if form == "parquet":
                rows = 0
                for written in write_parquet(file, self.columns, self._pages()):
                    rows += written
                    tell(written)
                return rows
            return self._copy(file, self._csv() if form == "csv" else self._json_lines(), tell)

    def _copy(self, file: IO[bytes], statement: sql.Composed, tell: Callable[[int], None]) -> int:
        """Pass on what the database writes itself: it sends a message for each row."""
        untold = 0
        cursor = self._connection.cursor()
        with cursor.copy(statement) as copy:
            for message in copy:
                file.write(message)
                untold += 1
                if untold == ROWS_BETWEEN_REPORTS:
                    tell(untold)
                    untold = 0
        return cursor.rowcount

    def _csv(self) -> sql.Composed:
        shown = [sql.SQL("{} AS {}").format(_as_csv(column), sql.Identifier(column.name)) for column in self.columns]
        return sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(self._select(shown))

    def _json_lines(self) -> sql.Composed:
        # JSON holds no control characters, so that with these two as CSV's marks each line comes out as it is.
        return sql.SQL(
            "COPY (SELECT row_to_json(r) FROM ({}) AS r) TO STDOUT (FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')"
        ).format(self._select([sql.Identifier(column.name) for column in self.columns]))

    def _pages(self) -> Iterator[list[tuple[Any, ...]]]:
        with self._connection.cursor(name="export") as cursor:
            cursor.execute(self._select([_as_parquet(column) for column in self.columns]), binary=True)
            while page := cursor.fetchmany(ROWS_AT_ONCE):
                yield page

    def _select(self, shown: list[Any]) -> sql.Composed:
        return sql.SQL("SELECT {} FROM nightlabel.{}{}").format(
            sql.SQL(", ").join(shown), sql.Identifier(self._request.view), self._filter
        )

    def _find_columns(self) -> tuple[ViewColumn, ...]:
        found = self._connection.execute(
            """
            SELECT c.relname, has_table_privilege(c.oid, 'SELECT'),
                array_agg(a.attname ORDER BY a.attnum), array_agg(format_type(a.atttypid, NULL) ORDER BY a.attnum)
            FROM pg_class AS c
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.relnamespace = to_regnamespace('nightlabel') AND c.relkind IN ('v', 'm')
                -- Public is what readers may read; without roles, whatever this user may.
                AND CASE
                    WHEN to_regrole('nightlabel_reader') IS NULL THEN has_table_privilege(c.oid, 'SELECT')
                    ELSE has_table_privilege('nightlabel_reader', c.oid, 'SELECT')
                END
            GROUP BY c.oid, c.relname
            """
        ).fetchall()
        views = {name: (is_readable, tuple(map(ViewColumn, names, kinds))) for name, is_readable, names, kinds in found}
        if not views:
            raise SchemaMissingError(
                f"the database at {self._where} has no views of Nightlabel; run `python -m inference migrate`"
            )
        if self._request.view not in views:
            raise SettingsError(
                f"there is no public view {self._request.view!r} in the database at {self._where}; there are: "
                + ", ".join(sorted(views))
            )
        is_readable, columns = views[self._request.view]
        if not is_readable:
            raise SinkCredentialsError(
                f"the user of the results database at {self._where} may not read {self._request.view}; make it a "
                "member of nightlabel_reader"
            )
        return columns

    def _made_filter(self) -> sql.Composable:
        request, conditions = self._request, []
        if request.bucket is not None:
            conditions.append(sql.SQL("{} = {}").format(self._column("--bucket", "bucket"), request.bucket))
        if request.prefix is not None:
            conditions.append(sql.SQL("{} ^@ {}").format(self._column("--prefix", "object_key"), request.prefix))
        if request.label is not None:
            conditions.append(sql.SQL("{} = {}").format(self._column("--label", "label"), request.label))
        for name, sign, moment in (("--since", ">=", request.since), ("--until", "<", request.until)):
            if moment is not None:
                conditions.append(
                    sql.SQL("{} {} {}").format(self._column(name, *TIMES), sql.SQL(sign), self._bound(moment))
                )
        return sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL("")

    def _column(self, option: str, *names: str) -> sql.Identifier:
        known = {column.name for column in self.columns}
        for name in names:
            if name in known:
                return sql.Identifier(name)
        raise SettingsError(
            f"{self._request.view} has no column {' or '.join(names)}, which {option} goes by; leave {option} out"
        )

    def _bound(self, moment: datetime) -> sql.Literal:
        """Return a bound in the type of the view's time; a day counts by its beginning."""
        kinds = {column.name: column.kind for column in self.columns}
        name = next(name for name in TIMES if name in kinds)
        if kinds[name] != "date":
            return sql.Literal(moment)
        utc = moment.astimezone(UTC)
        return sql.Literal(utc.date() if utc.time() == time(0) else utc.date() + timedelta(days=1))


def _as_csv(column: ViewColumn) -> sql.Composed:
    name = sql.Identifier(column.name)
    if column.kind.endswith("[]"):
        return sql.SQL("to_json({})::text").format(name)
    if column.kind.startswith("timestamp"):
        return sql.SQL("to_json({}) #>> '{{}}'").format(name)
    return sql.SQL("{}").format(name)


def _as_parquet(column: ViewColumn) -> sql.Composed:
    name, is_array = sql.Identifier(column.name), column.kind.endswith("[]")
    kind = column.kind.removesuffix("[]")
    if kind in _AS_THEY_ARE:
        return sql.SQL("{}").format(name)
    target = ("double precision" if kind == "numeric" else "text") + ("[]" if is_array else "")
    return sql.SQL("{}::{}").format(name, sql.SQL(target))
