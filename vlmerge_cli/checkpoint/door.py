"""What a path, a name or a file is, where it is no checkpoint, or only a part of one: said in one line, with a remedy.

Readers come here first (which files of a folder are one whole model?) and when bytes are not what they expect.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from vlmerge_cli.errors import CheckpointError, nearest
from vlmerge_cli.outputs.replacing import GRAMS, hub_name, in_hub_cache

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json")
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2")
NUMBERED = re.compile(r"(?P<stem>.*?)[-_.](?P<number>\d+)[-_.]of[-_.](?P<count>\d+)\.safetensors")
URL = re.compile(r"[a-z][a-z0-9+.-]*://?", re.IGNORECASE)
HUB_URL = re.compile(
    r"(?:https?:/+(?:huggingface\.co|hf\.co)|hf:/)/+(?P<name>[\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?"
)

AGAIN = "download or copy it again"
#: First bytes -> what a file is, and what to do.
CONTENTS = (
    (b"version https://git-lfs", "a git-lfs pointer to the weights", "fetch them: git lfs pull"),
    (b"<!doctype", "an HTML page", f"{AGAIN}: a login or error page came in place of the weights"),
    (b"<html", "an HTML page", f"{AGAIN}: a login or error page came in place of the weights"),
    (b"<?xml", "an XML text, such as a server's error", AGAIN),
    (b"{", "a JSON text, such as a server's error", AGAIN),
    (b"gguf", "a GGUF file", "take the safetensors that it was made from"),
    (b"pk\x03\x04", "a zip archive, as PyTorch's files are", "name it .pt and run vlmerge convert, or unpack it"),
    (b"\x80", "a pickle, as PyTorch's old files are", "name it .pt and run vlmerge convert"),
    (b"\x89hdf", "an HDF5 file", "save its weights as safetensors first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\xfd7zxz", "an xz archive", "unpack it first"),
    (b"(\xb5/\xfd", "a zstd archive", "unpack it first"),
    (bytes(64), "zeros where its header should be (header length 0)", AGAIN),
)
HEAD_BYTES = 512


def contents(head: bytes) -> tuple[str, str] | None:
    """What a file that begins so is, and what to do about it; None for what is not known."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    known = next(((what, fix) for known, what, fix in CONTENTS if start.startswith(known)), None)
    is_text = len(start) >= 16 and not any(byte < 9 or 13 < byte < 32 for byte in head) and max(head) < 128
    return known or (("a text file", "name the file of weights") if is_text else None)


@dataclass(frozen=True)
class Found:
    """The files of one whole model, or the index that names them."""

    files: tuple[Path, ...] = ()
    index: Path | None = None


def files_in(folder: Path, name: str) -> Found:
    """The model in a folder. Raises CheckpointError for none, several, or what is plainly a part of one."""
    index, single = folder / INDEX_NAME, folder / SINGLE_NAME
    if index.exists() and single.exists():
        fix = f"name one of them: {single} or {index}"
        raise CheckpointError("the folder holds both a whole checkpoint and an index", where=name, fix=fix)
    if _is_there(index):
        return Found(index=index)
    if _is_there(single):
        return Found((single,))
    others = sorted(p for p in folder.glob("*.safetensors") if not p.name.endswith(GRAMS) and p.name not in ADAPTERS)
    indices = sorted(folder.glob("*.safetensors.index*.json"))
    if len(indices) == 1:
        return Found(index=indices[0])
    if indices:
        listed = ", ".join(path.name for path in indices)
        raise CheckpointError(f"several indices of shards: {listed}", where=name, fix="name one of them")
    if numbered := [path for path in others if NUMBERED.fullmatch(path.name)]:
        return Found(_all_shards(numbered, name))
    if len(others) > 1:
        listed = ", ".join(p.name for p in others[:6])
        raise CheckpointError(f"several checkpoints and no index: {listed}", where=name, fix="name one file")
    if not others:
        raise _nothing_in(folder, name)
    return Found(tuple(others))


def part_of(path: Path) -> str:
    """``shard 1 of 2`` for a file that its name says is a part; empty for others."""
    found = NUMBERED.fullmatch(path.name)
    if found is None or int(found["count"]) < 2:
        return ""
    return f"shard {int(found['number'])} of {int(found['count'])}"


def _all_shards(paths: list[Path], name: str) -> tuple[Path, ...]:
    """Numbered shards without an index, when all are there. Raises CheckpointError."""
    found = {(match["stem"], int(match["count"])) for path in paths if (match := NUMBERED.fullmatch(path.name))}
    stem, count = min(found)
    if len(found) > 1:
        listed = ", ".join(path.name for path in paths[:6])
        raise CheckpointError(f"shards of several checkpoints and no index: {listed}", where=name, fix="name one")
    if len(paths) == count:
        return tuple(paths)
    held = f"a numbered shard is alone: {part_of(paths[0])}" if len(paths) == 1 else f"{len(paths)} of {count} shards"
    fix = f"fetch the folder again, or name the file for this part alone: {paths[0].name}"
    raise CheckpointError(f"half a model: {held}, and no {stem}.safetensors.index.json", where=name, fix=fix)


def _nothing_in(folder: Path, name: str) -> CheckpointError:
    """Why a folder holds no weights that can be read."""
    names = sorted(path.name for path in folder.iterdir())

    def first(*endings: str) -> str:
        return next((one for one in names if one.endswith(endings)), "")

    what, fix = "the folder holds no .safetensors file", ""
    if "snapshots" in names or (in_hub_cache(folder.absolute()) and folder.name == "snapshots"):
        at = folder if folder.name == "snapshots" else folder / "snapshots"
        inside = sorted(path for path in at.iterdir() if path.is_dir())
        what += ", it is one of the Hub's cache"
        fix = f"name its snapshot: {inside[-1]}" if inside else "its download did not end: fetch it again"
    elif any(one in names for one in ADAPTERS):
        what += " of a model, only an adapter (LoRA)"
        fix = "merge the adapter into its model first (peft: merge_and_unload), and name that"
    elif first(*UNFINISHED):
        what, fix = f"{what}: the download of {first(*UNFINISHED)} did not end", "fetch it again"
    elif any(one.startswith("models--") for one in names):
        what, fix = f"{what}, it is the Hub's cache", "name a model of it, as org/name"
    elif first(".distcp"):
        what += " but a distributed checkpoint of PyTorch"
        fix = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER x.pt; then vlmerge convert x.pt"
    elif first(*PICKLES):
        what, fix = f"{what} but {first(*PICKLES)}", f"run: vlmerge convert {folder} {folder.name}.safetensors"
    elif first(".gguf", ".h5", ".msgpack", ".onnx"):
        what += f" but {first('.gguf', '.h5', '.msgpack', '.onnx')}"
        fix = "take the safetensors that it was made from"
    elif inside := sorted(folder.glob("*/*.safetensors")):
        fix = f"name the folder: {inside[0].parent}"
    elif in_hub_cache(folder.absolute()):
        what = f"{incomplete(folder)}: it holds no weights"
        fix = "fetch it again: hf download"
    return CheckpointError(what, where=name, fix=fix)


def no_such(name: str) -> CheckpointError:
    """What is not there: a link to nothing, an address in place of a path, or a name with a slip."""
    path = Path(name)
    if path.is_symlink():
        return not_a_file(path)
    if hub := HUB_URL.match(name):
        revision = f"@{hub['revision']}" if hub["revision"] not in (None, "main") else ""
        return CheckpointError(f"an address, not a path: {name}", fix=f"name it as {hub['name']}{revision}")
    if name.startswith("file:"):
        return CheckpointError(f"an address, not a path: {name}", fix=f"name it as /{name[5:].lstrip('/')}")
    if URL.match(name):
        return CheckpointError(f"an address, not a path: {name}", fix="download it, and name the file")
    near = ""
    if path.parent.is_dir():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()])
    return CheckpointError(f"no such checkpoint: {name}", fix=near if near.startswith("did") else "")


def incomplete(path: Path) -> str:
    """What is said of a Hub cache, to which ``path`` belongs, that lacks files."""
    return f"the Hub's cache of {hub_name(path.absolute())} is not complete"


def not_a_file(path: Path) -> CheckpointError:
    """What stands where a file of weights, or an index of them, should be."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not path.is_symlink():
            return CheckpointError(f"shard is missing: {path.name}", where=str(path.parent), fix=AGAIN)
        what, fix = f"{path.name} is a link to nothing ({error.strerror})", "copy the file itself"
        if in_hub_cache(path.absolute()):
            what = f"{incomplete(path)}: {what}"
            fix = "fetch it again: hf download"
        return CheckpointError(what, where=str(path.parent), fix=fix)
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    kind = next((word for test, word in kinds if test(mode)), "a device")
    fix = "write it to a file first" if kind == "a pipe" else ""
    return CheckpointError(f"{path.name} is {kind} and is not a file", where=str(path.parent), fix=fix)


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
