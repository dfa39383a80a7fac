"""Prompts of tasks of lm-evaluation-harness, read from the YAML files that are installed with it.

The package is found, not imported, and its `!function` tags are passed over: reading a prompt runs nothing of it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from namm.errors import DataError, MissingExtraError

FIELD = re.compile(r"\{\{\s*(\w+)(?:\.strip\(\))?\s*\}\}")
"""What a template may hold: a field, perhaps stripped. Fields are given stripped."""


@dataclass(frozen=True)
class HarnessPrompt:
    """A task's description and examples, and the form of its questions."""

    path: Path
    before: str
    """Description and examples, as the harness puts them before every question."""

    question: str
    """With fields in double braces."""

    max_new_tokens: int

    def fill(self, fields: Mapping[str, str], context: str) -> tuple[str, int | None]:
        """The prompt, and the number of its characters up to the end of the context field."""
        parts, end, place = [self.before], None, 0
        for found in FIELD.finditer(self.question):
            parts += [self.question[place : found.start()], fields[found.group(1)]]
            place = found.end()
            if found.group(1) == context:
                end = sum(map(len, parts))
        return "".join([*parts, self.question[place:]]), end


def harness_folder() -> Path:
    """The folder of the installed harness's tasks.

    Raises:
        MissingExtraError: It is not installed.
    """
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(
            "expected lm-evaluation-harness, whose prompts this benchmark uses, found none; "
            "pip install 'namm-suite[lm-eval]', or pass the benchmark's own templates"
        )
    return Path(found.submodule_search_locations[0]) / "tasks"


@cache
def read_harness_prompt(folder: str, task: str) -> HarnessPrompt:
    """The prompt of a task with a description and examples of its own.

    Args:
        folder: Of the task's family below the harness's tasks.
        task: Name of its file, without ending.

    Raises:
        MissingExtraError: The harness is not installed.
        DataError: This version of it has no such file, or one of another form.
    """
    path = harness_folder() / folder / f"{task}.yaml"
    settings = _read_yaml(path)
    try:
        question, count = settings["doc_to_text"], int(settings["num_fewshot"])
        examples = settings["fewshot_config"]["samples"][:count]
        longest = int(settings["generation_kwargs"]["max_gen_toks"])
        parts = [settings.get("description", "")]
        bare = HarnessPrompt(path, "", question, longest)
        for example in examples:
            fields = {name: str(value).strip() for name, value in example.items()}
            # the harness's defaults: a space before a target, a blank line between examples
            parts.append(f"{bare.fill(fields, '')[0]}{settings.get('target_delimiter', ' ')}{example['target']}\n\n")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: expected a question, examples and an answer length, found another form ({error}); "
            "pass the benchmark's own templates"
        ) from None
    if "{{" in FIELD.sub("", question):
        raise DataError(
            f"{path}: expected plain fields in doc_to_text, found {question!r}; pass the benchmark's own templates"
        )
    return HarnessPrompt(path, "".join(parts), question, longest)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads tags of its own, such as !function, as nothing."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    try:
        # a loader that knows no more than yaml.safe_load, but for the tags
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"expected a task file of lm-evaluation-harness at {path}, found: {error}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: expected settings of a task, found {type(settings).__name__}")
    included = settings.pop("include", None)
    return {**(_read_yaml(path.parent / included) if isinstance(included, str) else {}), **settings}
