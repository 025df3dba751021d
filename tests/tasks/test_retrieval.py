from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.conftest import build, micro
from tests.steps.test_ranking import plainly
from tests.tasks import helpers
from tests.tasks.helpers import one_by_one
from vlmerge_cli.steps.evaluation import Evaluation
from vlmerge_cli.tasks.itc import itc
from vlmerge_cli.tasks.retrieval import Retrieval


def test_scores_equal_those_of_the_file_read_plainly(
    evaluation: Callable[..., Evaluation], made: Callable[[Any], Path]
) -> None:
    asked = evaluation("retrieval")
    found = Retrieval().evaluate(asked)
    document = json.loads((made("pairs") / "dataset_coco.json").read_text())["images"]
    names = [row["filename"] for row in document if row["split"] == "val"]
    texts = one_by_one(asked, lambda m, b: m.features(m.text(b.text, b.text_mask)))
    images = one_by_one(asked, lambda m, b: m.features(m.image(b.image)))
    file_of = [Path(str(asked.data[number].image)).name for number in range(len(asked.data))]
    owner = np.array([names.index(name) for name in file_of])
    keys = list(texts)
    stacked = np.stack([images[keys[file_of.index(name)]].numpy() for name in names])
    expected = plainly(stacked, np.stack([texts[key].numpy() for key in keys]), owner)
    assert len(keys) == found.num_samples == len(owner)
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value), name


def test_an_image_that_cannot_be_read_is_no_candidate(
    evaluation: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmerge_cli.data import prepare
    from vlmerge_cli.data.bad import BadSample

    whole = evaluation("retrieval")
    lost = str(whole.data[0].image)
    inner = prepare.load_image

    def broken(image: Any, *args: Any) -> Any:
        if str(image) == lost:
            raise BadSample("truncated image", lost)
        return inner(image, *args)

    monkeypatch.setattr(prepare, "load_image", broken)
    found = Retrieval().evaluate(evaluation("retrieval"))
    rest = [n for n in range(len(whole.data)) if str(whole.data[n].image) != lost]
    monkeypatch.undo()
    without = Retrieval().evaluate(evaluation("retrieval", data=whole.data.only(rest)))
    assert found.num_samples == len(rest) < len(whole.data)
    assert found.values == without.values


def test_the_loss_is_the_main_half_of_itc() -> None:
    model = build(micro("specific", heads=("itc",), drop_path=0.0, dropout=0.0)).double()
    data = helpers.batch(5)
    outcome = Retrieval().loss(helpers.passes(model, data))
    both = itc(helpers.passes(model, data)).loss.item()
    from vlmerge_cli.tasks.itc import half

    second = half(helpers.passes(model, data), second=True)[0].item()
    assert outcome.loss.item() == pytest.approx(2 * both - second)
