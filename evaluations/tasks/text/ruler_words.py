"""Words and wording of RULER's tasks: this project's own, or RULER's, read from its files.

RULER (Hsieh et al., COLM 2024) fixes what is hidden and how much of it; the sentences around it are here our own.
Scores with RULER's wording need `templates`: its scripts folder, or "lm_eval".
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluations.tasks.text.harness_prompts import harness_folder
from evaluations.tasks.text.templates import find_file, read_constants
from namm.errors import DataError

_ADJECTIVES = """
amber ample ancient azure bitter blunt bold brisk broad bronze calm careful clever cloudy coarse coastal copper
crisp curious damp daring dusty eager earthen elder faded fair fertile fierce flat floral foggy frank fresh
frosty gentle giant gilded glad glassy golden grand gravel green hardy hasty hazel hidden hollow humble icy idle
inland iron ivory jolly keen kind lasting lavish leafy level light lively lonely loyal lucky lunar marble mellow
merry mild misty modest mossy narrow neat nimble noble northern oaken olive open pale patient plain polite proud
quick quiet rapid rare ripe rocky rough round rural rustic salty sandy silent silver simple sleepy slender small
smooth snowy sober solar sturdy subtle sunny swift tall tender thick tidy tiny upper vast velvet vivid warm wary
western wide wild windy wise wooden woolen young zesty
"""
_NOUNS = """
acorn anchor apron arbor arrow badge bakery barley barrel basin basket beacon bell bench blanket blossom boat
bonnet bottle bramble branch bread brick bridge brook broom bucket button cabin candle canal canoe canvas carpet
cart castle cedar cellar chain chalk chapel cherry chimney cider cliff clock cloth clover coast cobble comb
cottage cradle crane creek crown cup curtain daisy dam desk dial ditch dock door drum dune easel eagle elm ember
engine feather fence fern ferry fiddle field flag flute forest fork fountain fox gable garden gate glove goose
grain granary grape grove gull hammer harbor harp hatch hawk hazelnut hearth hedge heron hill hinge honey hook
horn inn island ivy jacket jar jetty kettle key kiln kite ladder lake lamp lantern lark latch leaf lens lever
lily linen lock loft loom lute mantle maple market marsh mast meadow mill mint mirror mitten mortar needle nest
nettle oar oat orchard otter oven paddle pail palace parcel path pear pebble pepper pier pillow pine pitcher
plough pond poplar porch pottery quarry quill quilt raft rail rake raven reed ribbon ridge river road robin roof
rope rudder saddle sail satchel saw scarf shed shell shore shovel sickle sieve slate sledge spade sparrow
spindle spoon stable stair stove straw stream table tailor tent thimble thistle timber torch tower trail trunk
tunnel turnip valley vase violin wagon walnut wharf wheel whistle willow window wren yard yarn
"""
ADJECTIVES, NOUNS = tuple(_ADJECTIVES.split()), tuple(_NOUNS.split())
"""Of keys and word lists."""

NOISE = (
    "The kettle is on the stove. Rain falls on the roof. A cart goes down the lane. Nobody is in a hurry. "
    "Soon the lamps will be lit."
)
"""Sentences that say nothing, repeated."""


@dataclass(frozen=True)
class Wording:
    """The texts of RULER's tasks, with fields in braces, and the files they came from."""

    needle: str
    """One hidden sentence: type_needle_v (such as "numbers"), key, value."""

    templates: Mapping[str, str]
    """Prompt by kind of task, with the beginning of the answer: context, query; type_needle_v or num_v for some."""

    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if missing := [kind for kind in KINDS if kind not in self.templates]:
            raise DataError(f"expected templates of {', '.join(KINDS)} in {self.files}, found none of {missing[0]}")


KINDS = ("niah", "niah_one", "vt", "cwe", "fwe", "qa")

OWN = Wording(
    needle="Among the secret {type_needle_v}, that of {key} is {value}.",
    templates={
        "niah": (
            "Secret {type_needle_v} stand here and there in the text below. Keep them in mind: you will be asked for "
            "them.\n{context}\nWhich secret {type_needle_v} does the text give for {query}? "
            "The secret {type_needle_v} that the text gives for {query}:"
        ),
        "niah_one": (
            "A secret {type_needle_v} stands somewhere in the text below. Keep it in mind: you will be asked for it.\n"
            "{context}\nWhich secret {type_needle_v} does the text give for {query}? "
            "The secret {type_needle_v} of {query} is"
        ),
        "vt": (
            "In the text below, variables get values, some of them from other variables. Follow every one.\n\n"
            "{context}\nQuestion: which variables have the value {query} in the end? "
            "Answer: these {num_v} variables have the value {query}:"
        ),
        "cwe": (
            "Here is a numbered list of words. Some words stand in it more often than others.\n{context}\n"
            "Question: which 10 words stand in the list most often? Answer: the 10 most frequent words are:"
        ),
        "fwe": (
            "The text below is made of invented words. Count how often each appears and pass over '...'. {context}\n"
            "Question: which three invented words appear most often? Answer: the three most frequent words are:"
        ),
        "qa": (
            "Answer with a few words taken from these documents, and say nothing else.\n\n{context}\n\n"
            "Question: {query} Answer:"
        ),
    },
)

RULER_KINDS = {
    "niah": "niah",
    "vt": "variable_tracking",
    "cwe": "common_words_extraction",
    "fwe": "freq_words_extraction",
    "qa": "qa",
}
"""Keys of TASKS in RULER's scripts/data/synthetic/constants.py."""


def open_wording(templates: str | Path | None) -> Wording:
    """This project's wording (None), lm-evaluation-harness's ("lm_eval"), or RULER's own from its folder.

    Raises:
        DataError: The files are missing or of another form.
        MissingExtraError: The harness is not installed.
    """
    if templates is None:
        return OWN
    return (
        _of_harness(harness_folder() / "ruler") if templates == "lm_eval" else _of_ruler(Path(templates).expanduser())
    )


def _for_one_value(text: str) -> str:
    """A niah template for one value, as RULER makes it of the one for several: by replacing words."""
    for old, new in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
        text = text.replace(old, new)
    return text


def _of_ruler(folder: Path) -> Wording:
    where = "copy the folder scripts of https://github.com/NVIDIA/RULER, or pass templates=lm_eval"
    inside = ("", "data/synthetic", "scripts/data/synthetic", "synthetic")
    constants, niah = (
        find_file([folder / below / name for below in inside], f"RULER's {name}", where)
        for name in ("constants.py", "niah.py")
    )
    tasks, needle = read_constants(constants).get("TASKS", {}), read_constants(niah).get("needle")
    try:
        templates = {kind: tasks[name]["template"] + tasks[name]["answer_prefix"] for kind, name in RULER_KINDS.items()}
        templates["niah_one"] = _for_one_value(templates["niah"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{constants}: expected template and answer_prefix a task in TASKS, found no {error}") from None
    if not isinstance(needle, str):
        raise DataError(f"{niah}: expected the needle's sentence in `needle`, found none")
    return Wording(needle, templates, (constants, niah))


def _of_harness(folder: Path) -> Wording:
    names = ("niah_utils", "prepare_niah", "vt_utils", "cwe_utils", "fwe_utils", "qa_utils")
    paths = {name: folder / f"{name}.py" for name in names}
    read = {
        name: read_constants(find_file([path], "RULER's prompts", "update lm_eval")) for name, path in paths.items()
    }
    try:
        configs = {
            "vt": read["vt_utils"]["CONFIG"]["variable_tracking"],
            **{kind: read[f"{kind}_utils"]["CONFIG"] for kind in ("cwe", "fwe", "qa")},
        }
        templates = {kind: config["template"] + config["answer_prefix"] for kind, config in configs.items()}
        templates["qa"] = f"{configs['qa']['template']} {configs['qa']['answer_prefix']}"
        templates["niah"] = f"{read['niah_utils']['TEMPLATE']} {_niah_prefix(paths['prepare_niah'])}"
        templates["niah_one"] = _for_one_value(templates["niah"])
        needle = read["prepare_niah"]["NEEDLE"]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: expected RULER's templates as lm_eval 0.4.13 has them, found no {error}; "
            "pass RULER's own scripts folder"
        ) from None
    return Wording(needle, templates, tuple(paths.values()))


def _niah_prefix(path: Path) -> str:
    """The beginning of an answer with several values, which the harness writes as an f-string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            named = isinstance(key, ast.Constant) and key.value == "gen_prefix"
            if named and isinstance(value, ast.IfExp) and isinstance(value.orelse, ast.JoinedStr):
                return "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
                    for part in value.orelse.values
                    if isinstance(part, ast.Constant | ast.FormattedValue)
                )
    raise KeyError("gen_prefix")
