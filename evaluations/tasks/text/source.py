"""Where a benchmark's rows come from: a folder in the benchmark's own layout, or a dataset of the Hub.

The Hub is a way to get the folder: the files that a task needs are fetched into the local cache (or found there, with
no network), and from then on both are read by the same code. Read are .jsonl, .json and .parquet files, also those
inside a benchmark's `data.zip`; nothing that comes with the data is ever executed.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from evaluations.tasks.text.base import TextItem
from evaluations.tasks.text.records import Record, build_items, lines_of, list_of
from namm.errors import DataError, MissingExtraError

ARCHIVE = "data.zip"
"""LongBench's Hub repository holds its rows in this archive."""


@dataclass(frozen=True)
class TextFile:
    """One file of rows, in a folder or inside an archive."""

    path: Path
    """Of the file, or of the archive."""

    member: str = ""
    """Name inside the archive."""

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def bytes(self) -> bytes:
        """Its content.

        Raises:
            DataError: It cannot be read.
        """
        try:
            if not self.member:
                return self.path.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"expected to read {self.name}, found: {error}; is the download complete?") from None

    def blocks(self) -> Iterator[bytes]:
        """Its content, a block at a time: books fill gigabytes."""
        if self.member:
            yield self.bytes()
            return
        with self.path.open("rb") as opened:
            while block := opened.read(1 << 20):
                yield block

    def records(self) -> Iterator[Record | DataError]:
        """Its rows, in their order."""
        if self.name.endswith(".parquet"):
            return _parquet_rows(self)
        return (list_of if self.name.endswith(".json") else lines_of)(self.bytes(), self.name)


class FolderSource:
    """Rows in a folder."""

    def __init__(self, folder: str | Path, revision: str = "") -> None:
        """Args:
        folder: With the benchmark's files in it or in its subfolder `data`.
        revision: Of the Hub, where it came from there.

        Raises:
            DataError: There is no such folder.
        """
        self.folder = Path(folder).expanduser()
        self.revision = revision
        if not self.folder.is_dir():
            raise DataError(f"expected a folder with the benchmark's data at {self.folder}, found none")

    @property
    def name(self) -> str:
        """As messages and rows name it."""
        return str(self.folder)

    def files(self, *names: str, split: str = "test") -> list[TextFile]:
        """The files of a set of rows, in the order of their parts.

        Args:
            names: The set's name, then other names it goes by: NAME.jsonl, NAME.json, NAME.parquet,
                NAME/SPLIT-*.parquet or NAME/SPLIT.jsonl, here or in `data`.
            split: Of the set, for layouts that name it.

        Raises:
            DataError: There is none.
        """
        for base in (self.folder, self.folder / "data"):
            for name in names:
                for pattern in _patterns(name, split):
                    found = sorted(path for path in base.glob(pattern) if path.is_file())
                    if found:
                        return [TextFile(path) for path in found]
        for archive in (self.folder / ARCHIVE, self.folder / "data" / ARCHIVE):
            for name in names:
                if member := _member(archive, name):
                    return [TextFile(archive, member)]
        shown = [path for base in (self.folder, self.folder / "data") if base.is_dir() for path in base.iterdir()]
        have = sorted(str(path.relative_to(self.folder)) for path in shown if not path.name.startswith("."))
        raise DataError(
            f"expected {names[0]}.jsonl (or .json, .parquet, {names[0]}/{split}-*.parquet) in {self.folder} or its "
            f"subfolder data, found {', '.join(have[:12]) or 'an empty folder'}{', ...' if len(have) > 12 else ''}; "
            "docs/benchmarks.md has the layout of every benchmark"
        )

    def items(
        self,
        build: Callable[[Record], TextItem],
        *names: str,
        split: str = "test",
        limit: int | None = None,
        keep: Callable[[Record], bool] = lambda record: True,
    ) -> list[TextItem]:
        """One item a row of a set, in their order; see `files` and `build_items`.

        Args:
            build: Makes an item of a row or raises a `DataError`.
            names: Of the set.
            split: Of the set.
            limit: The first so many only.
            keep: Which rows belong to the task, where a file holds those of several.
        """
        files = self.files(*names, split=split)
        rows = (record for file in files for record in file.records())
        wanted = (record for record in rows if isinstance(record, DataError) or keep(record))
        return build_items(wanted, build, ", ".join(file.name for file in files), limit)

    def sha256(self, *names: str, split: str = "test") -> str:
        """The SHA-256 of a set's files, one after the other, as hex digits."""
        digest = hashlib.sha256()
        for file in self.files(*names, split=split):
            for block in file.blocks():
                digest.update(block)
        return digest.hexdigest()


class HubSource(FolderSource):
    """Rows of a dataset of the Hub, fetched into its local cache when they are asked for."""

    def __init__(self, dataset: str) -> None:
        """Args:
        dataset: OWNER/NAME on the Hub.
        """
        self.dataset = dataset
        self.revision = ""

    @property
    def name(self) -> str:
        """As messages and rows name it."""
        return f"hub:{self.dataset}"

    def files(self, *names: str, split: str = "test") -> list[TextFile]:
        """The files of a set of rows; see `FolderSource.files`.

        Raises:
            DataError: The Hub cannot be reached and the cache does not have them, or the dataset has no such files.
        """
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        patterns = [
            f"{base}{pattern}" for base in ("", "data/") for name in names for pattern in _patterns(name, split)
        ]
        try:
            folder = snapshot_download(self.dataset, repo_type="dataset", allow_patterns=[*patterns, ARCHIVE])
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
            raise DataError(
                f"expected the dataset {self.dataset} on the Hub or in its local cache, found neither "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); on a machine with a network run `hf download "
                f"{self.dataset} --repo-type dataset --local-dir FOLDER` and pass the folder as data"
            ) from None
        local = FolderSource(folder, revision=Path(folder).name)
        self.folder, self.revision = local.folder, local.revision
        return local.files(*names, split=split)


def open_source(data: str | Path | None, benchmark: str, dataset: str | None) -> FolderSource:
    """The source that a user names.

    Args:
        data: A folder, or OWNER/NAME of a dataset on the Hub; None: where the benchmark lives on the Hub. In a folder
            with data of several benchmarks, a subfolder of the benchmark's name is taken.
        benchmark: Its name.
        dataset: Its Hub dataset, if it has one.

    Raises:
        DataError: There is no such folder and the name can be no dataset's.
    """
    if data is None:
        if dataset is None:
            raise DataError(f"expected a folder with the data of {benchmark}, found no `data`; see docs/benchmarks.md")
        return HubSource(dataset)
    folder = Path(data).expanduser()
    if folder.is_dir():
        inner = folder / benchmark
        return FolderSource(inner if inner.is_dir() else folder)
    if folder.is_file():
        raise DataError(f"expected a folder with the data of {benchmark}, found the file {folder}; pass its folder")
    if isinstance(data, str) and data.count("/") == 1 and not data.startswith((".", "~", "/")):
        return HubSource(data)
    raise DataError(
        f"expected a folder with the data of {benchmark}, or OWNER/NAME of a dataset on the Hub, "
        f"found nothing at {data}"
    )


def template_places(given: str | Path | None, source: FolderSource, *names: str) -> list[Path]:
    """Where a benchmark's own template file may lie: where the user says, else beside the data.

    Args:
        given: Folder or file that the user names.
        source: Of the data; a dataset of the Hub has nothing beside it, so the current folder is looked through.
        names: Of the file below a folder, in the order of preference.
    """
    if given is not None:
        folder = Path(given).expanduser()
        return [folder] if folder.is_file() else [folder / name for name in names]
    if isinstance(source, HubSource):
        return [Path(name) for name in names]
    return [base / name for base in (source.folder, source.folder.resolve().parent) for name in names]


def _patterns(name: str, split: str) -> Sequence[str]:
    return (
        f"{name}.jsonl",
        f"{name}.json",
        f"{name}.parquet",
        f"{name}/{split}-*-of-*.parquet",
        f"{name}/{split}.parquet",
        f"{name}/{split}.jsonl",
        f"{name}/{split}.json",
    )


def _member(archive: Path, name: str) -> str:
    if not archive.is_file():
        return ""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"expected a zip archive at {archive}, found: {error}; fetch it again") from None
    wanted = {f"{name}.jsonl", f"{name}.json"}
    return next((member for member in sorted(members) if PurePosixPath(member).name in wanted), "")


def _parquet_rows(file: TextFile) -> Iterator[Record | DataError]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError(
            f"expected pyarrow to read {file.name}, found none; pip install 'namm-suite[text]'"
        ) from None
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file.path).iter_batches(batch_size=16):
            for row in batch.to_pylist():
                number += 1
                yield Record(row, f"{file.name}:row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        yield DataError(f"{file.name}:row {number + 1}: expected a Parquet file, found: {error}")
