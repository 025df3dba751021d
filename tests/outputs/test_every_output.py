"""Every output of every command, found in the command line itself: what must not be replaced is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch
import typer

from tests.helpers import fails, ok, vlmerge
from vlmerge_cli import cli
from vlmerge_cli.data.shapes.cached import folder
from vlmerge_cli.data.shapes.options import ShapesOptions
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.vlmodel import VLModel

pytestmark = pytest.mark.xdist_group("every-output")  # its fixtures are made once

#: Parameters of commands that are paths and are read, not written.
READ = {"config", "images", "texts", "run", "source", "file", "files", "checkpoint", "paths"}
#: For every output: (kind, the command without it). {ckpt}: a model folder, {file}: one file, {data}: pairs.
OUTPUTS: dict[str, tuple[str, str]] = {
    "merge output": ("weights", "merge {file} -o"),
    "merge report": ("file", "merge {ckpt} --method regmean --grams {grams} -o new.safetensors --report"),
    "grams collect output": ("weights", "grams {ckpt} --data {data} --examples 4 -o"),
    "grams add output": ("weights", "grams add {grams} {grams} -o"),
    "distance csv": ("file", "distance {file} --csv"),
    "distance report": ("report", "distance {file} --report"),
    "convert target": ("weights", "convert {pickle}"),
    "pretrain out": ("run", "pretrain --model micro --steps 1 --device cpu --data {data} --out"),
    "finetune out": ("run", "finetune {ckpt} --task retrieval --steps 1 --device cpu --data {data} --out"),
    "distill out": ("run", "distill {ckpt} --data {data} --steps 1 --examples 16 --batch-size 4 --device cpu --out"),
    "evaluate predictions": ("file", "evaluate {ckpt} --task vqa --data {questions} --max-samples 4 --predictions"),
    "sweep out": ("records", "sweep {ckpt} --alpha 0.5 --evaluate itm --data {data} --max-samples 4 --out"),
    "sweep write_best": (
        "weights", "sweep {ckpt} --alpha 0.5 --evaluate itm --data {data} --max-samples 4 --out new --write-best"),
    "sweep report": (
        "report", "sweep {ckpt} --alpha 0.5 --evaluate itm --data {data} --max-samples 4 --out new --report"),
    "report out": ("report", "report {sweep} --out"),
    "study out": ("records", "study --preset quick --dry-run --out"),
}  # fmt: skip


def declared() -> set[str]:
    """``command parameter`` of everything on the command line that takes a path and is not in READ."""
    found = set()
    for name in cli.COMMANDS:
        command = cli.load(name)
        for title, one in command.commands.items() if isinstance(command, click.Group) else [("", command)]:
            for parameter in one.params:
                if isinstance(parameter.type, click.Path) and parameter.name not in READ:
                    found.add(" ".join(filter(None, (name, title, parameter.name))))
    return found


def test_no_output_escapes_this_table() -> None:
    assert isinstance(typer.main.get_command(cli.app), click.Group)
    assert declared() - {"embed output", "search page"} == set(OUTPUTS)  # those two have tests beside their command


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    made = {"data": "coco", "questions": "coco"}
    options = ShapesOptions(image_px=8, train=40, val=16, test=8)
    found = {name: folder(options, part, root / "made") for name, part in made.items()}
    torch.manual_seed(0)
    config = preset(
        "micro", architecture="specific", heads=("itc", "itm", "mlm", "vqa"), max_text_tokens=20, text_bias_tokens=20,
        vocab_size=91, num_answers=2,
    )  # fmt: skip
    about = {"tokenizer": "bundled", "answers": ["yes", "no"]}
    VLModel(config).save_pretrained(root / "ckpt", about=about)
    shutil.copy(root / "ckpt" / "model.safetensors", root / "file.safetensors")
    ok(
        "grams",
        root / "ckpt",
        "--data",
        found["data"],
        "--examples",
        "64",
        "--include-padding",
        "-o",
        root / "g.grams.safetensors",
    )
    torch.save({"a": torch.zeros(3)}, root / "old.pt")
    sweep = [
        "--alpha",
        "0.5",
        "--evaluate",
        "itm",
        "--data",
        found["data"],
        "--max-samples",
        "4",
        "--out",
        root / "sweep",
    ]
    ok("sweep", root / "ckpt", *sweep)
    return found | {
        "ckpt": root / "ckpt", "file": root / "file.safetensors", "grams": root / "g.grams.safetensors",
        "pickle": root / "old.pt", "sweep": root / "sweep",
    }  # fmt: skip


@pytest.fixture
def words(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """A command's words, run in a folder of its own."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return lambda text: [part.format(**inputs) for part in text.split()]


def contents(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_strangers_folder_keeps_all_it_holds(name: str, words: Callable[[str], list[str]], tmp_path: Path) -> None:
    """With and without --force, whatever a command makes of the path."""
    kind, text = OUTPUTS[name]
    thesis = tmp_path / "thesis"
    (thesis / "figures").mkdir(parents=True)
    held = {"thesis.txt": b"years", "index.html": b"<p>mine", "model.safetensors": b"mine too", "figures/1.txt": b"1"}
    for file, data in held.items():
        (thesis / file).write_bytes(data)
    for force in ([], ["--force"]):
        vlmerge(*words(text), thesis, *force)
        assert {file: (thesis / file).read_bytes() for file in held} == held, force


@pytest.mark.parametrize("name", [name for name, (kind, _) in OUTPUTS.items() if kind in ("file", "weights")])
def test_a_file_that_is_there_needs_force(name: str, words: Callable[[str], list[str]], tmp_path: Path) -> None:
    kind, text = OUTPUTS[name]
    path = tmp_path / ("there.safetensors" if kind == "weights" else "there.txt")
    path.write_bytes(b"mine")
    assert "exists" in fails(2, *words(text), path)
    assert path.read_bytes() == b"mine"
    ok(*words(text), path, "--force")
    assert path.read_bytes() != b"mine"


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_input_is_ever_written_over(
    name: str, words: Callable[[str], list[str]], inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Nor through a link; the whole folder of an input neither."""
    _, text = OUTPUTS[name]
    before = {key: contents(path) if path.is_dir() else path.read_bytes() for key, path in inputs.items()}
    used = [inputs[part[1:-1]] for part in text.split() if part[:1] == "{" and part[1:-1] in inputs]
    link = tmp_path / "link.safetensors"
    weights = [one / "model.safetensors" for one in used if (one / "model.safetensors").exists()]
    for path in dict.fromkeys([*used, *weights]):
        for force in ([], ["--force"]):
            link.unlink(missing_ok=True)
            link.symlink_to(path)
            vlmerge(*words(text), path, *force)
            vlmerge(*words(text), link, *force)
    for key, path in inputs.items():
        now = contents(path) if path.is_dir() else path.read_bytes()
        if isinstance(now, dict):  # reports and records may be added to a folder
            now = {file: data for file, data in now.items() if file in before[key]}
        assert now == before[key], key


@pytest.mark.parametrize("name", [name for name, (kind, _) in OUTPUTS.items() if kind in ("run", "weights")])
@pytest.mark.parametrize("path", [".", ".."])
def test_the_current_folder_and_those_above_it_are_no_outputs(
    name: str, path: str, words: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "here" / "mine.txt").write_text("mine")
    assert vlmerge(*words(OUTPUTS[name][1]), path, "--force").code in (1, 2)
    assert (tmp_path / "here" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", [name for name in OUTPUTS if name != "study out"])
def test_nothing_is_written_in_a_cache_of_the_hub(name: str, words: Callable[[str], list[str]], tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    before = contents(tmp_path / "hub")
    for place in (snapshot / "out.safetensors", snapshot / "out"):
        said = vlmerge(*words(OUTPUTS[name][1]), place, "--force")
        assert said.code != 0
    assert contents(tmp_path / "hub") == before


def test_grams_and_merges_of_a_model_in_the_cache_lie_here(
    words: Callable[[str], list[str]], inputs: dict[str, Path], tmp_path: Path
) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    shutil.copytree(inputs["ckpt"], snapshot)
    before = contents(tmp_path / "hub")
    ok("grams", snapshot, "--data", inputs["data"], "--examples", "64", "--include-padding")
    ok("merge", snapshot, "--method", "regmean")
    assert contents(tmp_path / "hub") == before
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"name.grams.safetensors", "name.merged"}


def test_special_files_are_written_to_and_stay(words: Callable[[str], list[str]], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    ok(*words(OUTPUTS["merge report"][1]), link)
    ok(*words(OUTPUTS["distance csv"][1]), link)
    assert link.is_symlink()
    assert not Path("/dev/null").is_file()


def test_the_grams_that_are_read_unasked_are_inputs_too(
    words: Callable[[str], list[str]], inputs: dict[str, Path], tmp_path: Path
) -> None:
    beside = shutil.copy(inputs["grams"], tmp_path / "c.grams.safetensors")
    whole = beside.read_bytes()
    ckpt = shutil.copy(inputs["file"], tmp_path / "c.safetensors")
    for text in (f"merge {ckpt} -m regmean -o o.safetensors --report", f"distance {ckpt} --csv"):
        assert "holds an input" in fails(2, *words(text), beside, "--force")
        assert beside.read_bytes() == whole
