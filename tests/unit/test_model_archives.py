"""What is extracted stays in its folder, is bounded, and is made of plain files, whatever the archive says."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.errors import ModelSourceError
from inference.models import archives
from inference.models.archives import extract, is_archive


def tar(path: Path, *entries: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return path


def zipped(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "inside" / "target"
    folder.mkdir(parents=True)
    return folder


FILES = (("./saved_model.pb", b"graph"), ("variables/variables.index", b""), ("variables/data", b"weights" * 100))


@pytest.mark.parametrize("pack", [tar, zipped, lambda path, *files: tar(path, *files, mode="w")])
def test_files_come_out_as_they_were_packed(tmp_path: Path, target: Path, pack: Callable[..., Path]) -> None:
    archive = pack(tmp_path / "model", *FILES)

    assert is_archive(archive)
    extract(archive, target)
    assert below(target) == {name.removeprefix("./"): data for name, data in FILES}


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "..", "a\\..\\out", "C:/out"])
def test_a_path_that_leads_out_is_refused_and_nothing_is_written_there(
    tmp_path: Path, target: Path, pack: Callable[..., Path], name: str
) -> None:
    archive = pack(tmp_path / "evil", ("fine", b"x"), (name, b"evil"))

    with pytest.raises(ModelSourceError, match="which leads out of the folder that it is extracted to"):
        extract(archive, target)
    assert set(below(tmp_path)) == {"evil", "inside/target/fine"}


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (special("link", tarfile.SYMTYPE, "/etc/passwd"), "a link"),
        (special("link", tarfile.SYMTYPE, "fine"), "a link"),
        (special("link", tarfile.LNKTYPE, "../../secret"), "a link"),
        (special("pipe", tarfile.FIFOTYPE), "a device"),
        (special("null", tarfile.CHRTYPE), "a device"),
    ],
)
def test_links_and_devices_in_a_tar_archive_are_refused(
    tmp_path: Path, target: Path, entry: tarfile.TarInfo, kind: str
) -> None:
    with pytest.raises(ModelSourceError, match=f"the entry '{entry.name}', which is {kind} and no file"):
        extract(tar(tmp_path / "evil.tar.gz", ("fine", b"x"), entry), target)
    assert not (target / entry.name).is_symlink()


def test_links_in_a_zip_archive_are_refused(tmp_path: Path, target: Path) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")

    with pytest.raises(ModelSourceError, match="which is a link and no file"):
        extract(archive, target)
    assert not (target / "link").is_symlink()


@pytest.mark.parametrize("pack", [tar, zipped])
def test_what_comes_out_is_bounded(tmp_path: Path, target: Path, pack: Callable[..., Path]) -> None:
    bomb = pack(tmp_path / "bomb", ("zeros", bytes(5_000_000)))
    assert bomb.stat().st_size < 50_000

    with pytest.raises(ModelSourceError, match="more than 1,000,000 bytes when extracted"):
        extract(bomb, target, max_bytes=1_000_000)
    assert sum(len(data) for data in below(target).values()) <= 1_000_000


@pytest.mark.parametrize("pack", [tar, zipped])
def test_the_number_of_files_is_bounded(tmp_path: Path, target: Path, pack: Callable[..., Path]) -> None:
    many = pack(tmp_path / "many", *((f"f{number}", b"") for number in range(11)))

    with pytest.raises(ModelSourceError, match="more than 10 entries"):
        extract(many, target, max_files=10)


def test_a_name_twice_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"the entry '\./a' twice"):
        extract(tar(tmp_path / "twice.tar", ("a", b"1"), ("./a", b"2")), target)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(ModelSourceError, match="the entry 'a/b' twice, or as a file and as a folder"):
        extract(tar(tmp_path / "odd.tar", ("a", b"1"), ("a/b", b"2")), target)


def test_a_name_that_the_disk_cannot_hold_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(ModelSourceError, match="whose name is too long for this disk"):
        extract(tar(tmp_path / "long.tar", ("a" * 300, b"1")), target)


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("keep", [0.4, 0.9])
def test_a_cut_archive_is_refused_in_a_sentence(
    tmp_path: Path, target: Path, pack: Callable[..., Path], keep: float
) -> None:
    archive = pack(tmp_path / "cut", ("data", bytes(range(256)) * 4_000), ("more", bytes(1000)))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * keep)])

    with pytest.raises(ModelSourceError, match="is damaged or encrypted") as raised:
        extract(archive, target)
    assert "\n" not in str(raised.value)


def test_what_is_no_archive_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive at all")

    assert not is_archive(tmp_path / "text")


def headers(kind: bytes, *sizes: int) -> bytes:
    """Extended headers of a tar archive, which say nothing and take many bytes."""
    blocks = []
    for size in sizes:
        info = special("long", kind)
        info.size = size
        blocks += [info.tobuf(tarfile.USTAR_FORMAT), bytes(size + -size % tarfile.BLOCKSIZE)]
    return b"".join(blocks)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("sizes", [(64_000_000,), (600_000, 600_000)], ids=["one", "in_a_row"])
def test_a_long_header_is_refused_before_it_is_read(
    tmp_path: Path, target: Path, kind: bytes, sizes: tuple[int, ...]
) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as packed:
        packed.write(headers(kind, *sizes))
    assert bomb.stat().st_size < 500_000

    tracemalloc.start()
    try:
        assert is_archive(bomb)
        with pytest.raises(ModelSourceError, match="headers of more than 1,048,576 bytes for one file"):
            extract(bomb, target)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert below(target) == {}


def test_headers_of_all_files_together_are_bounded(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_ALL_HEADERS_BYTES", 100_000)
    with pytest.raises(ModelSourceError, match="or 100,000 for all"):
        extract(tar(tmp_path / "many.tar", *((f"{number}{'n' * 200}", b"") for number in range(90))), target)


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz", "w:gz"])
def test_long_names_and_every_compression_are_read(tmp_path: Path, target: Path, mode: str) -> None:
    name = "/".join(["variables" * 10] * 4)
    archive = tar(tmp_path / "model", (name, b"weights" * 1_000), ("more", b"x" * tarfile.BLOCKSIZE), mode=mode)

    assert is_archive(archive)
    extract(archive, target)
    assert below(target) == {name: b"weights" * 1_000, "more": b"x" * tarfile.BLOCKSIZE}


def test_a_sparse_file_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(ModelSourceError, match="which is sparse and no file"):
        extract(tar(tmp_path / "sparse.tar", special("holes", tarfile.GNUTYPE_SPARSE)), target)
