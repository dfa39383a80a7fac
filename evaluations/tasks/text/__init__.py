"""Text benchmarks: one short file each, all of the form that `base.py` gives, and the names they go by."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isabstract
from pathlib import Path
from typing import Any

from evaluations.tasks.outside import GROUP, is_task
from evaluations.tasks.text.babilong import BabiLong
from evaluations.tasks.text.base import Benchmark, BenchmarkOptions, TextItem
from evaluations.tasks.text.choubun import ChouBun
from evaluations.tasks.text.documents import Documents
from evaluations.tasks.text.infinitebench import InfiniteBench
from evaluations.tasks.text.longbench import LongBench, LongBenchE
from evaluations.tasks.text.longbench_v2 import LongBenchV2
from evaluations.tasks.text.niah import Niah
from evaluations.tasks.text.ruler import Ruler
from namm.errors import UnknownNameError, did_you_mean
from namm.outside import Registry

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkOptions", "TextItem", "benchmark_tasks", "make_benchmark"]


def _benchmark(thing: Any) -> type[Benchmark] | None:
    fits = isinstance(thing, type) and issubclass(thing, Benchmark) and not isabstract(thing)
    return thing if fits else None


BENCHMARKS: Registry[type[Benchmark]] = Registry(
    (LongBench, LongBenchE, LongBenchV2, InfiniteBench, ChouBun, Ruler, Niah, BabiLong, Documents),
    _benchmark,
    "a subclass of Benchmark with items, score and protocol",
    GROUP,
    is_task,
)
"""Every benchmark by its name, those of other packages among them."""


def make_benchmark(name: str, data: str | Path | None = None, **options: Any) -> Benchmark:
    """A benchmark by its name.

    Args:
        name: One of `BENCHMARKS`; an underscore counts as a hyphen.
        data: Folder with its data, or OWNER/NAME of a dataset on the Hub; see `BenchmarkOptions`.
        options: Further fields of `BenchmarkOptions`.

    Raises:
        UnknownNameError: There is none of that name.
        ConfigError: An option does not suit it.
    """
    return BENCHMARKS[_known(name)](BenchmarkOptions(data=data, **options))


def benchmark_tasks(names: Sequence[str]) -> list[tuple[str, str]]:
    """Benchmark and task of every name, in their order, each once.

    Args:
        names: NAME for all of a benchmark's tasks (`longbench`), NAME/TASK for one (`longbench/qasper`), or
            NAME/TASK,TASK,...

    Raises:
        UnknownNameError: There is no such benchmark or task.
    """
    found: dict[tuple[str, str], None] = {}
    for written in names:
        name, _, tasks = written.partition("/")
        name = _known(name)
        known = BENCHMARKS[name].tasks
        for task in [part.strip() for part in tasks.split(",")] if tasks else known:
            if task not in known:
                raise UnknownNameError(f"{name} has no task {task!r}. {did_you_mean(task, known)}")
            found[name, task] = None
    return list(found)


def _known(name: str) -> str:
    plain = name.strip().lower().replace("_", "-")
    if plain not in BENCHMARKS:
        raise UnknownNameError(f"There is no benchmark {name!r}. {did_you_mean(plain, BENCHMARKS)}")
    return plain
