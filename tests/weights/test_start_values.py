from __future__ import annotations

import math

import pytest
import torch

from tests.model.conftest import micro
from vlmerge_cli.model.config import preset
from vlmerge_cli.weights.start_values import init_weights
from vlmerge_cli.weights.vlmodel import VLModel


@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_every_parameter_is_set(positions: str) -> None:
    model = VLModel(micro(positions=positions), init=False)
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    init_weights(model)
    assert not [name for name, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]


def test_the_generator_decides() -> None:
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(VLModel(micro()).state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert not torch.equal(models[0]["pooler.dense.weight"], models[2]["pooler.dense.weight"])


def test_scales() -> None:
    torch.manual_seed(0)
    config = preset("tiny", architecture="agnostic", heads=("itc", "itm", "mlm", "vqa"), vocab_size=2000)
    state = VLModel(config).state_dict()

    def std(key: str) -> float:
        return float(state[key].std())

    for layer in (0, 5, 11):
        block = f"transformer.blocks.{layer}."
        small = 0.02 / math.sqrt(2 * (layer + 1))
        assert std(block + "attn.qkv.weight") == pytest.approx(0.02, rel=0.03)
        for key in ("attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"):
            assert std(block + key) == pytest.approx(small, rel=0.03), key
        for key in ("attn.q_bias", "attn.v_bias", "attn.proj.bias", "mlp.fc1.bias", "norm1.bias"):
            assert not state[block + key].any(), key
        assert (state[block + "gamma_1"] == torch.tensor(0.1)).all()
        assert (state[block + "norm2.weight"] == 1).all()
    for key in ("text_embeddings.word_embeddings.weight", "pooler.dense.weight", "mlm_score.decoder.weight",
                "ifm_vl_text_proj.fc.weight"):  # fmt: skip
        assert std(key) == pytest.approx(0.02, rel=0.03), key
    for key in ("vqa_classifier.0.weight", "vqa_classifier.3.weight"):
        assert std(key) == pytest.approx(0.02 * math.sqrt(768 / 192), rel=0.03), key
    start = torch.sigmoid(state["vqa_classifier.3.bias"])
    torch.testing.assert_close(start, torch.full((3129,), 1 / 3130))
    assert std("transformer.patch_embed.proj.weight") == pytest.approx(1 / math.sqrt(3 * 768), rel=0.03)
    assert not state["relative_position_bias_table"].any()
    assert not state["mlm_score.bias"].any()
    assert float(state["logit_scale"]) == float(state["logit_vl_scale"]) == pytest.approx(2.6593, abs=1e-4)


def test_layer_scale_is_a_choice() -> None:
    state = VLModel(micro(layer_scale=1.0)).state_dict()
    assert (state["transformer.blocks.3.gamma_2"] == 1).all()


def test_a_model_built_without_memory_can_be_given_some() -> None:
    with torch.device("meta"):
        model = VLModel(micro())
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    torch.manual_seed(5)
    model.set_tables()
    init_weights(model)
    torch.manual_seed(5)
    expected = VLModel(micro())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers(), strict=True))
