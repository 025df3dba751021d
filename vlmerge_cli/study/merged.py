"""A checkpoint merged on the way into training or evaluation, by the code of ``vlmerge merge``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.merging import merge, opening
from vlmerge_cli.merging.plan import Request
from vlmerge_cli.methods.method import Method, make


@dataclass(frozen=True)
class Merging:
    """What is merged how; ``options`` are the method's, by field name."""

    checkpoint: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    grams: str | None = None
    experts_for: str | None = None
    dtype: str | None = None

    def made(self) -> Method:
        """Raises UsageError for options that the method does not have."""
        return make(self.method, self.options)

    def described(self) -> dict[str, Any]:
        """For a run's settings and records."""
        others = {"base": self.base, "grams": self.grams, "experts_for": self.experts_for, "dtype": self.dtype}
        given = {name: value for name, value in others.items() if value is not None}
        return {"method": self.method, "settings": self.made().settings(), **given}

    def check(self) -> None:
        """Raises what planning the merge raises."""
        with opening.prepared(self.inputs, self.made(), self.request):
            pass

    def write(self, path: Path, force: bool = True) -> merge.Summary:
        """Into a folder, or a file where ``path`` is called .safetensors; whole or absent."""
        with opening.prepared(self.inputs, self.made(), self.request) as ready:
            return merge.run(ready, Target(path, force, False), merge.Settings(device="cpu"), lambda _: None)

    @property
    def inputs(self) -> opening.Inputs:
        return opening.Inputs(self.checkpoint, self.base, self.grams)

    @property
    def request(self) -> Request:
        return Request((), self.experts_for, self.dtype)
