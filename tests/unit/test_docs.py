"""The documents name everything that a user can set or meet, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import inference.api.errors as api_errors
from inference.errors import ConfigurationError, ImageError, ImageGoneError, InferenceError, TransientError
from inference.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def rows(page: Path) -> list[list[str]]:
    """The cells of every table row that begins with a `code` cell."""
    lines = (line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def documented_settings() -> dict[str, str]:
    """Variable -> default, as the tables say."""
    return {
        row[0].strip("`"): row[1].strip("`") for row in rows(ROOT / "docs" / "settings.md") if "NIGHTLABEL_" in row[0]
    }


def written(value: object) -> str:
    """How the README writes a default."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def error_classes() -> set[type[InferenceError]]:
    def family(cls: type[InferenceError]) -> set[type[InferenceError]]:
        return {cls}.union(*(family(child) for child in cls.__subclasses__()))

    return {cls for cls in family(InferenceError) if cls.__module__ in {"inference.errors", "inference.api.errors"}}


def test_the_settings_page_has_every_setting_and_no_other():
    known = {f"NIGHTLABEL_{name.upper()}" for name in Settings.model_fields}
    used = {
        name
        for folder in ("inference", "local_stack", "dags", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bNIGHTLABEL_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8"))
    }

    assert set(documented_settings()) == known | used


def test_the_settings_page_has_the_defaults_that_hold():
    documented = documented_settings()
    fixed = {
        f"NIGHTLABEL_{name.upper()}": field.default
        for name, field in Settings.model_fields.items()
        if field.default_factory is None and field.default is not None
    }

    assert {name: documented[name] for name in fixed} == {name: written(value) for name, value in fixed.items()}


def test_every_error_code_is_unique():
    codes = [cls.code for cls in error_classes()]

    assert len(set(codes)) == len(codes)


def trouble_of(cls: type[InferenceError]) -> str:
    if "code" not in vars(cls) or cls.__subclasses__():
        return "base"
    if issubclass(cls, ImageError):
        return "retryable" if cls.is_retryable else "permanent"
    kinds = {
        ImageGoneError: "none",
        TransientError: "transient",
        ConfigurationError: "setup",
        api_errors.RequestError: "request",
    }
    return next((kind for parent, kind in kinds.items() if issubclass(cls, parent)), "shard")


def test_the_table_of_errors_has_every_code_with_its_trouble_and_its_status():
    table = {row[0].strip("`"): (row[1], row[2]) for row in rows(ROOT / "docs" / "errors.md")}

    assert table == {cls.code: (trouble_of(cls), str(api_errors.status_of(cls("x")).value)) for cls in error_classes()}


def test_every_public_view_has_its_section():
    grants = (ROOT / "sql" / "grants.sql").read_text(encoding="utf-8")
    granted = re.search(r"GRANT SELECT ON\s+([\w\s.,]+?)\s+TO nightlabel_reader", grants)
    assert granted
    views = set(re.findall(r"nightlabel\.(\w+)", granted[1]))

    assert set(re.findall(r"^## (\w+)$", (ROOT / "docs" / "sql.md").read_text(encoding="utf-8"), re.M)) == views


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_that_the_code_sends_readers_to_is_there():
    named = {
        name
        for folder in ("inference", "local_stack", "dags", "plugins", "sql")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".sql"}
        for name in re.findall(r"\b(?:docs/[\w/-]+\.md|README\.md)\b", path.read_text(encoding="utf-8"))
    }

    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_readme_can_be_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 170


def test_every_test_that_the_page_on_reliability_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert len(named) > 10
    assert named - written == set()
