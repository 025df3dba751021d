"""Gram matrices of any module: hooks that add up XᵀX of what its linear layers are given.

    with collect_grams(model, layout) as collector:
        for batch in batches:
            with collector.tokens(l=batch["attention_mask"]):  # padding does not count
                model(**batch)
    collector.save("model.grams.safetensors", checkpoint="model.safetensors")

The layout says which weights are an expert's and, in ``gram``, which module sees their input (for q, k and v in
one matrix, say, the attention itself); where it does not, it is the module that owns the weight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmerge_cli import devices
from vlmerge_cli.checkpoint.reader import open_checkpoint
from vlmerge_cli.checkpoint.target import Target
from vlmerge_cli.engine.pool import one_blas_thread
from vlmerge_cli.errors import LayoutError, MergeError, UsageError, nearest
from vlmerge_cli.grams import gram_file
from vlmerge_cli.grams.sums import Sums, make_sums
from vlmerge_cli.layouts.layout import Layout, Slot
from vlmerge_cli.layouts.survey import survey

NumpyArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Site:
    """One Gram: the weight it is stored under, the module whose input it is of, (n, width) a time."""

    key: str
    module: str
    slot: Slot
    expert: str
    width: int

    @property
    def label(self) -> str:
        return f"layer {self.slot.layer} {self.slot.name} of expert {self.expert}"


def find_sites(module: nn.Module, layout: Layout) -> list[Site]:
    """Every Gram that merging the module's experts needs, in the order of layers.

    Slots that read the same input have one. Raises LayoutError when the layout knows no linear weight of an
    expert here, or names a module that does not exist.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    groups = survey(layout, shapes).groups
    modules = dict(module.named_modules())
    found: dict[str, Site] = {}
    for slot, keys in sorted(groups.items(), key=lambda item: item[0].layer):
        for expert, weight in keys.items() if slot.kind == "linear" else ():
            key, name = layout.gram_keys(slot, expert)
            name = name or key.rpartition(".")[0]
            if name not in modules:
                fix = nearest(name, modules)
                raise LayoutError(f"the model has no module {name}, whose input {weight} reads", fix=fix)
            if key not in found:
                found[key] = Site(key, name, slot, expert, shapes[weight][-1])
    if not found:
        fix = "check the names in the layout: vlmerge layouts --show vl-merging is an example"
        raise LayoutError(f"the model has no linear weight of an expert under layout {layout.name}", fix=fix)
    return list(found.values())


class Collector:
    """Adds up Grams while its model runs; ``counts`` are the tokens in each."""

    def __init__(self, sites: list[Site], sums: Sums, include_padding: bool, names: Collection[str]) -> None:
        self.sites, self.sums, self.include_padding = {site.key: site for site in sites}, sums, include_padding
        self._names = names  # of all experts that the layout knows
        self.counts = dict.fromkeys(self.sites, 0)
        self._masks: Mapping[str, Tensor | None] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens that the experts have seen, of every pass: the most in any Gram of an expert, added up."""
        most: dict[str, int] = {}
        for key, site in self.sites.items():
            most[site.expert] = max(most.get(site.expert, 0), self.counts[key])
        return sum(most.values())

    @contextmanager
    def tokens(self, **masks: Tensor | None) -> Iterator[None]:
        """Which tokens of each expert count while the model runs: (B, T), True where they do; None: all.

        An expert that is not named counts all of its tokens. With ``include_padding`` the masks have no effect.
        """
        for name in masks:
            if name not in self._names and not self.include_padding:
                raise UsageError(f"no expert {name!r}", fix=nearest(name, self._names))
        before, self._masks = self._masks, masks
        try:
            yield
        finally:
            self._masks = before

    def add(self, site: Site, x: Tensor) -> None:
        """X of one call, (..., width)."""
        mask = None if self.include_padding else self._masks.get(site.expert)
        rows = x.detach()
        if mask is not None:
            if mask.shape != x.shape[:-1]:
                what = f"the mask of expert {site.expert} is {tuple(mask.shape)}"
                what += f", but the input of {site.label} is {tuple(x.shape)}"
                raise MergeError(what, fix="give a mask of shape (B, T) for the tokens that this expert sees")
            rows = rows[mask.bool()]
        rows = rows.reshape(-1, site.width)
        if len(rows):
            self.sums.add(site.key, rows)
            self.counts[site.key] += len(rows)

    def triangle(self, key: str) -> NumpyArray:
        """One sum, packed by rows, (width (width + 1) / 2,) float64. Raises MergeError: not finite."""
        try:
            return self.sums.triangle(key)
        except MergeError as error:
            raise self.named(error) from None

    def named(self, error: MergeError) -> MergeError:
        """An error of the sums, which know keys only, with the place in the model."""
        key = next((key for key in self.sites if f" {key} " in error.what), None)
        where = self.sites[key].label if key else ""
        return error.retold(MergeError, error.where or where, error.fix)

    def save(
        self, path: str | Path, checkpoint: str | Path | None = None, *, force: bool = False, **about: Any
    ) -> None:
        """Write the file that ``vlmerge merge --method regmean`` reads.

        ``checkpoint`` ties it to the weights it was collected on, which a merge then checks; ``about`` (JSON
        values: ``data``, ``passes``) is kept with it. Experts that saw no token are left out.
        """
        described: dict[str, Any] = {"padding": self.include_padding, **about}
        if checkpoint is not None:
            with open_checkpoint(str(checkpoint)) as opened:
                described["checkpoint"] = opened.fingerprint()
        described["tokens"] = {key: count for key, count in self.counts.items() if count}
        widths = {key: self.sites[key].width for key in described["tokens"]}
        gram_file.write(Target(Path(path), force), widths, self.triangle, described)


@contextmanager
def collect_grams(
    module: nn.Module,
    layout: Layout,
    *,
    precision: str = "float32",
    include_padding: bool = False,
    only: Collection[str] | None = None,
    threads: int | None = None,
) -> Iterator[Collector]:
    """Collect the Grams of a module's experts while the block runs it; see above for the use.

    The sums live on the module's device, on the CPU they are made by ``threads`` beside the model's own.
    ``precision`` is that of products: float32 (relative error near 6e-8; narrower activations are widened first),
    or float64, for which the module should be in float64 too. ``only`` names the keys wanted.
    Raises LayoutError (find_sites), and MergeError for a mask that does not fit or an input that is not finite.
    """
    if precision not in ("float32", "float64"):
        raise UsageError(f"precision {precision!r}", fix=nearest(precision, ("float32", "float64")))
    sites = [site for site in find_sites(module, layout) if only is None or site.key in only]
    device = next(module.parameters()).device
    workers = max(1, devices.num_cpus() // 2) if threads is None else threads
    modules = dict(module.named_modules())
    with ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(one_blas_thread())
        sums = make_sums({site.key: site.width for site in sites}, device, precision, workers)
        stack.callback(sums.close)
        collector = Collector(sites, sums, include_padding, layout.experts)
        for site in sites:
            hook = modules[site.module].register_forward_pre_hook(_hook(collector, site), with_kwargs=True)
            stack.callback(hook.remove)
        try:
            with torch.no_grad():
                yield collector
            sums.flush()
        except MergeError as error:
            raise collector.named(error) from None


def _hook(collector: Collector, site: Site) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1:] == (site.width,):
                collector.add(site, value)
                return
        what = f"{site.module} was called without a tensor of width {site.width}, the input of {site.label}"
        raise MergeError(what, fix="name the module that is given it in the layout: gram")

    return hook
