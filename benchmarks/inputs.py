"""The inputs of the benchmarks, made once in the work folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import WORK
from fixtures.build import SIZES, Size, blocks, build, expert_specs
from vlmerge_cli.checkpoint.header import Spec
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.checkpoint.writer import create
from vlmerge_cli.engine.arrays import narrow

SHARD_BYTES = 2_200_000_000
#: Models of growing size in bfloat16: GB -> sizes. 8 GB is that of W2.
GROWTH = {
    0.1: Size(512, 6, 5, 8, vocabulary=8000),
    0.5: Size(1024, 9, 8, 16),
    1: Size(1024, 18, 17, 16),
    2: Size(1536, 17, 16, 16),
    4: Size(2048, 19, 17, 16),
    8: SIZES["4b"],
    12: Size(2560, 36, 34, 20),
}
#: Agnostic; the vocabulary is such that two hold as many bytes as W1's checkpoint.
HALF = replace(SIZES["base"], vocabulary=18_467)
#: Two of these hold as many bytes as W2's checkpoint.
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2560, "intermediate_size": 6912,
    "num_hidden_layers": 24, "num_attention_heads": 20, "num_key_value_heads": 20, "vocab_size": 32000,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def made(name: str, make: Callable[[Path], object]) -> Path:
    """The path of that name; the writer leaves nothing under it until all is there."""
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / name
    if not path.exists():
        make(path)
    return path


def base() -> Path:
    """W1: BEiT-base size, modality-specific, float32, one file."""
    return made("base-F32.safetensors", lambda path: build(path, SIZES["base"], "F32", "specific", 0, SHARD_BYTES))


def tiny() -> Path:
    """For a rehearsal."""
    return made("tiny-F32.safetensors", lambda path: build(path, SIZES["tiny"], "F32", "specific", 0, SHARD_BYTES))


def base_halves() -> tuple[Path, Path]:
    """As many bytes as ``base`` in two agnostic files, for tools that merge whole files."""
    one, two = (
        made(
            f"half{seed}-F32.safetensors",
            lambda path, seed=seed: build(path, HALF, "F32", "agnostic", seed, SHARD_BYTES),
        )
        for seed in (1, 2)
    )
    return one, two


def grown(gigabytes: float) -> Path:
    """A modality-specific checkpoint in bfloat16, a folder of shards; 8 GB: W2."""
    name = "4b-BF16" if gigabytes == 8 else f"grown-{gigabytes}-BF16"
    return made(name, lambda path: build(path, GROWTH[gigabytes], "BF16", "specific", 0, SHARD_BYTES))


def specs_of(gigabytes: float) -> dict[str, Spec]:
    """Every tensor of ``grown``."""
    return expert_specs(GROWTH[gigabytes], "BF16")


def llamas() -> tuple[Path, Path]:
    """About as many bytes as W2 in two folders of the form that mergekit-yaml takes."""
    one, two = (made(f"llama{seed}-BF16", lambda path, seed=seed: _llama(path, seed)) for seed in (1, 2))
    return one, two


def _llama(path: Path, seed: int) -> None:
    target = Target(path, sync=False, max_shard_bytes=SHARD_BYTES)
    extras = {"config.json": json.dumps(LLAMA, indent=2).encode()}
    specs = {key: Spec("BF16", shape) for key, shape in llama_shapes().items()}
    with create(target, specs, {"format": "pt"}, extras) as output:
        for key, spec in specs.items():
            written = 0
            for values in blocks(key, spec, seed):
                data = narrow(values, spec.dtype)
                output.write(key, written, data)
                written += len(data)


def llama_shapes() -> dict[str, tuple[int, ...]]:
    width, hidden, words = (LLAMA[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    layer = {
        **{f"self_attn.{name}_proj.weight": (width, width) for name in "qkvo"},
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.down_proj.weight": (width, hidden),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    shapes = {
        "model.embed_tokens.weight": (words, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (words, width),
    }
    for number in range(LLAMA["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes
