"""What is kept, in the text: the page's tokens are the row's, whatever they are, and the slider walks the heads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from evaluations.language.examples import example_page
from evaluations.language.experiment import play_experiment
from evaluations.language.trace import decoder, kept_of, packed, pieces
from evaluations.rows.trials import LOG_LIKELIHOOD
from evaluations.text import TextConfig


@pytest.fixture
def row(config: TextConfig, longbench: Path) -> dict:
    config = replace(config, tasks=("longbench/qasper",), policy=("namm:sequence",), data=str(longbench))
    return (play_experiment(config, Console(quiet=True)) or [])[0]


def test_pieces_join_to_the_text_and_characters_of_several_tokens_are_whole(model_folder: Path) -> None:
    decode = decoder(AutoTokenizer.from_pretrained(model_folder))
    text = "naïve 日本 <b>x</b>\n"
    ids = AutoTokenizer.from_pretrained(model_folder)(text, add_special_tokens=False)["input_ids"]
    found = pieces(ids, decode)
    assert len(found) == len(ids)
    assert "".join(found) == text
    kept = np.random.default_rng(0).random((2, 3, 5)) < 0.5
    trace = {"layers": 2, "heads": 3, "pieces": "abcde", "kept": packed(kept)}
    assert np.array_equal(kept_of({"trace": trace}), kept)


def test_the_page_of_a_run_holds_its_tokens_and_nothing_in_them_is_markup(row: dict, tmp_path: Path) -> None:
    page = (example_page([row], tmp_path) or Path()).read_text()
    data = json.loads(re.search(r"<script id='kept-data' type='application/json'>(.*?)</script>", page).group(1))
    (example,) = data
    assert example["pieces"] == row["trace"]["pieces"]
    assert "<b>salt</b> & </script>" in "".join(example["pieces"])
    assert page.count("</script>") == 2
    assert not re.search(r"""(src|href)=['"]?http""", page)
    assert example_page([{**row, "trace": None}], tmp_path) is None


def test_scores_on_the_cards_tell_policies_apart_as_the_tables_do(row: dict, tmp_path: Path) -> None:
    """Log-likelihoods of -2.524 and -2.617 were both shown as -2 or -3."""
    for name, score, shown in ((LOG_LIKELIHOOD.name, -2.5241, "-2.524"), ("word F1", 33.333, "33.3")):
        graded = [{**prompt, "score": score} for prompt in row["prompts"]]
        page = (example_page([{**row, "score_name": name, "prompts": graded}], tmp_path) or Path()).read_text()
        assert f'"score":"{name} {shown}"' in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
@pytest.mark.parametrize(("slider", "name"), [(0, "all 4 heads"), (3, "layer 1, head 0")])
def test_a_browser_colours_the_kept_tokens_of_the_chosen_head(
    row: dict, tmp_path: Path, slider: int, name: str
) -> None:
    page = (example_page([row], tmp_path) or Path()).read_text()
    move = (
        f"<script>const s=document.getElementById('kept-head');s.value={slider};"
        "s.dispatchEvent(new Event('input'));</script></body>"
    )
    path = tmp_path / "moved.html"
    path.write_text(page.replace("</body>", move))
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [*browser, profile, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert name in done.stdout
    shares = [float(value) for value in re.findall(r"--share: ?([\d.]+)", done.stdout)]
    kept = kept_of(row)
    expected = kept.reshape(-1, kept.shape[-1])
    expected = expected.mean(axis=0) if slider == 0 else expected[slider - 1].astype(float)
    assert shares == pytest.approx(expected.tolist(), abs=0.001)
    assert done.stdout.count('class="gone"') == int((expected == 0).sum())
