from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from tests.model.conftest import FIVE, batch, build, every_output, micro
from vlmerge_cli.checkpoint import writer
from vlmerge_cli.errors import CheckpointError, PlanError, UsageError
from vlmerge_cli.weights.vlmodel import VLModel


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("architecture", FIVE)
@torch.no_grad()
def test_a_folder_comes_back_as_the_same_model(tmp_path: Path, architecture: str) -> None:
    model = build(micro(architecture))
    model.save_pretrained(tmp_path / "model", sync=False)
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["README.md", "config.json", "model.safetensors"]
    loaded = VLModel.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert not loaded.training
    inputs = batch(model.config)
    expected, found = every_output(model, inputs), every_output(loaded, inputs)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@torch.no_grad()
def test_the_file_alone_holds_its_configuration(tmp_path: Path) -> None:
    model = build(micro("custom-ln", joint_below_fusion=True))
    model.save_pretrained(tmp_path / "model", about={"step": 7}, sync=False)
    file = tmp_path / "model" / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["vlmerge"]) == {"config": model.config.to_dict(), "step": 7}
    moved = tmp_path / "moved.safetensors"
    file.rename(moved)
    assert VLModel.from_pretrained(moved).config == model.config


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(micro()).save_pretrained(tmp_path / name, sync=False)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saving_into_a_folder_in_use_keeps_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build(micro(), seed=1).save_pretrained(folder, sync=False)
    (folder / "README.md").write_text("my own card")
    (folder / "tokenizer.json").write_text("{}")
    model = build(micro(), seed=2)
    model.save_pretrained(folder, sync=False)
    assert names(folder) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "README.md").read_text() == "my own card"
    assert torch.equal(VLModel.from_pretrained(folder).pooler.dense.weight, model.pooler.dense.weight)


@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool) -> None:
    folder = tmp_path / "model"
    if exists:
        build(micro(), seed=1).save_pretrained(folder, sync=False)
        before = (folder / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.Output, "write", full)
    with pytest.raises(CheckpointError, match="No space left"):
        build(micro(), seed=2).save_pretrained(folder, sync=False)
    if exists:
        assert (folder / "model.safetensors").read_bytes() == before
        assert names(folder) == ["README.md", "config.json", "model.safetensors"]
    else:
        assert names(tmp_path) == []


def test_saving_where_it_cannot_be(tmp_path: Path) -> None:
    model = VLModel(micro())
    with pytest.raises(UsageError, match="is a file"):
        model.save_pretrained(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a checkpoint in shards"):
        model.save_pretrained(tmp_path)


def test_settings_can_be_changed_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(micro(heads=("itc", "itm"))).save_pretrained(tmp_path / "model", sync=False)
    model = VLModel.from_pretrained(tmp_path / "model", heads=("vqa",), image_px=16, text_bias_tokens=12)
    assert model.config.image_px == 16
    report = model.start_report
    assert report is not None
    assert {key.split(".")[0] for key in report.fresh} == {"vqa_classifier"}
    assert "pooler.dense.weight" in report.loaded
    assert set(report.resized) == {"relative_position_bias_table"}
    said = capsys.readouterr().err
    assert "2×2 patches and 8 text tokens to 4×4 patches and 12 text tokens" in said
    assert "logit_vl_scale" in said
    assert "\\n" not in said
    assert [line.split(":")[0] for line in said.splitlines()[1:]] == ["  resized", "  start values", "  not used"]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_seed_folder_becomes_a_specific_model(tmp_path: Path) -> None:
    build(micro("agnostic")).save_pretrained(tmp_path / "seed", sync=False)
    model = VLModel.from_pretrained(tmp_path / "seed", architecture="specific")
    state = model.state_dict()
    stem = "transformer.blocks.2.attn."
    assert torch.equal(state[f"{stem}vl.qkv.weight"], state[f"{stem}v.qkv.weight"])


def test_nothing_is_said_about_a_plain_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(micro()).save_pretrained(tmp_path / "model", sync=False)
    VLModel.from_pretrained(tmp_path / "model")
    assert capsys.readouterr() == ("", "")


def test_weights_that_lack_something_are_refused(tmp_path: Path) -> None:
    model = build(micro())
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("pooler.")}
    model.save_pretrained(tmp_path / "model", state_dict=state, sync=False)
    with pytest.raises(CheckpointError, match=r"the weights lack 2 tensors: pooler\.dense\.weight"):
        VLModel.from_pretrained(tmp_path / "model")


def test_broken_configurations_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build(micro()).save_pretrained(folder, sync=False)
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, "widht": 3}))
    with pytest.raises(UsageError, match="no model setting 'widht'"):
        VLModel.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**stored, "num_answers": 9}))
    with pytest.raises(PlanError, match=r"vqa_classifier\.3\.weight"):
        VLModel.from_pretrained(folder)
    with pytest.raises(UsageError, match="no model setting 'image_size'"):
        VLModel.from_pretrained(folder, image_size=16)


def test_what_is_not_there_offline() -> None:
    with pytest.raises(CheckpointError, match="no such file or folder, and not in the Hub's cache: nobody/nothing"):
        VLModel.from_pretrained("nobody/nothing")


def test_pushing_uploads_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    class Api:
        def __init__(self, token: str | None) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> object:
            return type("Url", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, repo_id: str, folder_path: Path, **_: object) -> str:
            seen[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            return "https://hub/commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    model = build(micro())
    assert model.push_to_hub("mine") == "https://hub/commit"
    files = seen["me/mine"]
    assert isinstance(files, dict)
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    model.save_pretrained(tmp_path / "here", push_to_hub=True, sync=False)
    assert sorted(seen) == ["me/here", "me/mine"]


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    build(micro("custom-ffn")).save_pretrained(tmp_path / "model", sync=False)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.library_name == "vlmerge"
    assert "(custom-ffn)" in card.text
    assert "| fusion_layer | 2 |" in card.text
