"""The built-in data set on disk, in the formats that the real ones are published in."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmerge_cli import console
from vlmerge_cli.data.shapes.draw import labels, pixels
from vlmerge_cli.data.shapes.language import captions
from vlmerge_cli.data.shapes.options import Part, ShapesOptions
from vlmerge_cli.data.shapes.questions import Asked, questions
from vlmerge_cli.data.shapes.scenes import Scene, class_names, labelled_scene, scene, shape_names
from vlmerge_cli.data.shapes.statements import stated

COCO_NAME = {"train": "train2014", "val": "val2014", "test": "test2015"}
ADE_NAME = {"train": "training", "val": "validation", "test": "testing"}
NLVR2_NAME = {"train": "train", "val": "dev", "test": "test1"}
FIRST_ID = {"train": 0, "val": 1_000_000, "test": 2_000_000}  # COCO image ids are unique over splits
NUM_POOL = 1000  # scenes that the statements of a split are about


def write(options: ShapesOptions, part: Part, folder: Path) -> None:
    """Fill ``folder`` with one part: the same options give the same bytes."""
    makers = {"coco": _coco, "shards": _shards, "nlvr2": _nlvr2, "classes": _classes, "ade20k": _ade20k}
    makers[part](options, folder)


def _scenes(options: ShapesOptions, split: str, num: int | None = None) -> Iterator[Scene]:
    total = options.num_images()[split] if num is None else num
    with console.progress(f"making {options.variant} {split}", total, "images") as advance:
        for number in range(total):
            yield scene(options.seed, split, number, options.variant, options.num_things)
            advance(1)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _dump(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def _texts(options: ShapesOptions, one: Scene) -> list[str]:
    return [caption.text for caption in captions(one, one.draws("captions"), options.captions_per_image)]


def _coco(options: ShapesOptions, folder: Path) -> None:
    """COCO's image folders, Karpathy's captions and VQAv2's questions and annotations."""
    rows: list[dict[str, Any]] = []
    for split, subset in COCO_NAME.items():
        (folder / subset).mkdir()
        asked: list[tuple[int, Asked]] = []
        for one in _scenes(options, split):
            image_id = FIRST_ID[split] + one.number
            name = f"COCO_{subset}_{image_id:012d}.jpg"
            (folder / subset / name).write_bytes(_jpeg(pixels(one, options.image_px)))
            sentences = [
                {"raw": text, "tokens": text.split(), "imgid": len(rows), "sentid": 10 * image_id + order}
                for order, text in enumerate(_texts(options, one))
            ]
            rows.append(
                {
                    "filepath": subset,
                    "filename": name,
                    "imgid": len(rows),
                    "split": split,
                    "cocoid": image_id,
                    "sentids": [sentence["sentid"] for sentence in sentences],
                    "sentences": sentences,
                }
            )
            found = questions(one, one.draws("questions"), options.questions_per_image, options.variant)
            asked += [(image_id, question) for question in found]
        _write_vqa(folder, subset, asked)
    _dump(folder / "dataset_coco.json", {"images": rows, "dataset": "coco"})


def _write_vqa(folder: Path, subset: str, asked: list[tuple[int, Asked]]) -> None:
    head = {"info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": subset}
    asking, annotations = [], []
    for order, (image_id, question) in enumerate(asked):
        question_id = 1000 * image_id + order % 1000
        asking.append({"image_id": image_id, "question": question.text, "question_id": question_id})
        annotations.append(
            {
                "image_id": image_id,
                "question_id": question_id,
                "question_type": question.question_type,
                "answer_type": question.answer_type,
                "multiple_choice_answer": question.truth,
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": number}
                    for number, answer in enumerate(question.answers, 1)
                ],
            }
        )
    subtask = {"task_type": "Open-Ended", "questions": asking}
    _dump(folder / f"v2_OpenEnded_mscoco_{subset}_questions.json", {**head, **subtask})
    _dump(folder / f"v2_mscoco_{subset}_annotations.json", {**head, "annotations": annotations})


def _shards(options: ShapesOptions, folder: Path) -> None:
    """The training pairs as img2dataset writes them: one caption an image."""
    scenes = list(_scenes(options, "train"))
    for shard, start in enumerate(range(0, len(scenes), options.shard_samples)):
        chosen = scenes[start : start + options.shard_samples]
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for order, one in enumerate(chosen):
                key = f"{shard:05d}{order:04d}"
                text = _texts(options, one)[0]
                side = options.image_px
                facts = {"caption": text, "key": key, "status": "success", "width": side, "height": side}
                _member(tar, f"{key}.jpg", _jpeg(pixels(one, side)))
                _member(tar, f"{key}.json", json.dumps(facts).encode())
                _member(tar, f"{key}.txt", text.encode())
        _dump(folder / f"{shard:05d}_stats.json", {"count": len(chosen), "successes": len(chosen)})


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _nlvr2(options: ShapesOptions, folder: Path) -> None:
    """As many statements as there are images; each with four pairs, and the pair's images under its name."""
    from vlmerge_cli.data.draws import generator

    for split, name in NLVR2_NAME.items():
        num = options.num_images()[split]
        pool = list(_scenes(options, split, min(num, NUM_POOL)))
        images = [_png(pixels(one, options.image_px)) for one in pool]
        originals: dict[int, Path] = {}
        lines = []
        for sentence in range(max(1, num // 4)):
            made = stated(pool, generator(options.seed, "statement", split, sentence), options.variant)
            home = folder / "images" / name / (str(sentence % 100) if split == "train" else "")
            home.mkdir(parents=True, exist_ok=True)
            for pair, (left, right, truth) in enumerate(made.pairs):
                stem = f"{name}-{sentence}-{pair}"
                for side, number in enumerate((left, right)):
                    _place(originals, number, images[number], home / f"{stem}-img{side}.png")
                row = {"identifier": f"{stem}-0", "sentence": made.text, "label": str(truth)}
                lines.append(json.dumps({**row, "directory": sentence % 100} if split == "train" else row))
        (folder / f"{name}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _place(originals: dict[int, Path], number: int, data: bytes, path: Path) -> None:
    """Write an image the first time, and link to it afterwards: a pair has its own names for its images."""
    if number not in originals:
        path.write_bytes(data)
        originals[number] = path
        return
    try:
        os.link(originals[number], path)
    except OSError:  # a file system without links, or too many of them
        shutil.copyfile(originals[number], path)


def _classes(options: ShapesOptions, folder: Path) -> None:
    """Class folders as ImageNet's; the class is colour and shape of the one large thing."""
    names = class_names(options.variant)
    for split, num in options.num_images().items():
        for name in names:
            (folder / split / name).mkdir(parents=True)
        with console.progress(f"making {options.variant} classes {split}", num, "images") as advance:
            for number in range(num):
                name = names[number % len(names)]
                one = labelled_scene(options.seed, split, number, number % len(names), options.variant)
                path = folder / split / name / f"{name}_{number}.JPEG"
                path.write_bytes(_jpeg(pixels(one, options.image_px)))
                advance(1)


def _ade20k(options: ShapesOptions, folder: Path) -> None:
    """Images and label pictures in ADE20k's folders; label 1 is the ground, then the shapes, 0 an edge."""
    for split, name in ADE_NAME.items():
        (folder / "images" / name).mkdir(parents=True)
        (folder / "annotations" / name).mkdir(parents=True)
        for one in _scenes(options, split):
            label = f"ADE_{split}_{one.number + 1:08d}"
            image = _jpeg(pixels(one, options.image_px))
            (folder / "images" / name / f"{label}.jpg").write_bytes(image)
            (folder / "annotations" / name / f"{label}.png").write_bytes(_png(labels(one, options.image_px)))
    names = ("ground", *shape_names(options.variant))
    rows = [f"{number}\t0\t0\t0\t{name}" for number, name in enumerate(names, 1)]
    header = "Idx\tRatio\tTrain\tVal\tName"
    (folder / "objectInfo150.txt").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
