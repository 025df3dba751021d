"""Parameters of ``base``, exact: what the reference has, less three tensors that nothing uses."""

from __future__ import annotations

import pytest
import torch

from vlmerge_cli.model.config import preset
from vlmerge_cli.model.network import count_parameters
from vlmerge_cli.weights.vlmodel import VLModel

#: In the published state dict, used by no pass: text position table, temporal bias table, mask token.
NOT_USED = 40 * 768 + 2 * 144 + 768

#: Architecture -> parameters of the reference's VQA model at 224, 384 and 480 px, and Table 7 (millions).
REFERENCE = {
    "specific": ((215_099_577, 215_312_697, 215_495_865), 217),
    "custom-attn": ((148_964_025, 149_177_145, 149_360_313), 151),
    "custom-ffn": ((182_015_673, 182_228_793, 182_411_961), 184),
    "custom-ln": ((115_923_129, 116_136_249, 116_319_417), 118),
    "agnostic": ((115_880_121, 116_093_241, 116_276_409), 118),
}
PRETRAINING = {"specific": 235_530_430, "custom-attn": 169_394_878, "custom-ffn": 202_446_526,
               "custom-ln": 136_353_982, "agnostic": 136_310_974}  # fmt: skip

#: Elements of the index buffers that the reference also stored at 384 px; Table 7 counts them.
INDEX_ELEMENTS_384 = 2_094_734


@pytest.mark.parametrize("architecture", REFERENCE)
@pytest.mark.parametrize(("place", "px"), list(enumerate((224, 384, 480))))
def test_vqa_counts(architecture: str, place: int, px: int) -> None:
    found = count_parameters(preset("base", architecture=architecture, heads=("vqa",), image_px=px))
    assert found == REFERENCE[architecture][0][place] - NOT_USED


@pytest.mark.parametrize("architecture", PRETRAINING)
def test_pretraining_counts(architecture: str) -> None:
    found = count_parameters(preset("base", architecture=architecture, heads=("itc", "itm", "mlm")))
    assert found == PRETRAINING[architecture] - NOT_USED


@pytest.mark.parametrize("architecture", REFERENCE)
def test_table_7_counts_everything_that_was_stored(architecture: str) -> None:
    found = count_parameters(preset("base", architecture=architecture, heads=("vqa",), image_px=384))
    stored = found + NOT_USED + INDEX_ELEMENTS_384
    assert round(stored / 1e6) == REFERENCE[architecture][1]


def test_nothing_but_parameters_is_stored() -> None:
    with torch.device("meta"):
        model = VLModel(preset("base", heads=("vqa",)))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert {name for name, _ in model.named_buffers()} == {"image_index", "text_index", "joint_index"}
