"""The weight and bias of one linear slot by least squares over all streams' inputs, from sums in float64.

With inputs x̃ = (x, 1) and targets y of stream k over N_k tokens, minimised is

    Σₖ wₖ / N_k Σ ‖W̃ x̃ - y‖² + ρ s ‖W̃ - W̃₀‖²,   s = tr(A) / d,

with A = Σₖ wₖ / N_k Σ x̃ x̃ᵀ and B = Σₖ wₖ / N_k Σ y x̃ᵀ, so W̃ = (B + ρ s W̃₀) (A + ρ s I)⁻¹; W̃₀ is the plain average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlmerge_cli import ranks
from vlmerge_cli.errors import MergeError
from vlmerge_cli.methods import linalg


@dataclass
class Sums:
    """Of one stream: Σ x̃ x̃ᵀ (d + 1, d + 1), Σ y x̃ᵀ (out, d + 1) and N."""

    inputs: Tensor
    outputs: Tensor
    num_tokens: int = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """x (n, d) and y (n, out) of any floating type."""
        rows = torch.cat([x.double(), x.new_ones(len(x), 1, dtype=torch.float64)], dim=1)
        self.inputs += rows.T @ rows
        self.outputs += y.double().T @ rows
        self.num_tokens += len(x)


@dataclass
class Fit:
    """A slot's sums by stream; ``width`` is d, ``height`` the number of outputs."""

    label: str
    width: int
    height: int
    device: torch.device
    streams: dict[str, Sums] = field(default_factory=dict)

    def add(self, stream: str, x: Tensor, y: Tensor) -> None:
        """Tokens of one stream: x (n, d), y (n, out)."""
        if stream not in self.streams:
            size, kind = self.width + 1, {"dtype": torch.float64, "device": self.device}
            self.streams[stream] = Sums(torch.zeros(size, size, **kind), torch.zeros(self.height, size, **kind))  # type: ignore[call-overload]
        self.streams[stream].add(x, y)

    def rows(self, rows: slice) -> Fit:
        """Some of the outputs."""
        own = {name: Sums(sums.inputs, sums.outputs[rows], sums.num_tokens) for name, sums in self.streams.items()}
        return Fit(self.label, self.width, rows.stop - rows.start, self.device, own)

    def totals(self, weights: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        """A and B over all ranks, added in the order of ranks; a stream without a weight has 1.

        Raises MergeError where they are not finite.
        """
        own = {name: (s.inputs.cpu(), s.outputs.cpu(), s.num_tokens) for name, s in self.streams.items()}
        everyone = ranks.gather_objects(own)
        names = sorted({name for one in everyone for name in one})
        size = self.width + 1
        a, b = torch.zeros(size, size, dtype=torch.float64), torch.zeros(self.height, size, dtype=torch.float64)
        for name in names:
            found = [one[name] for one in everyone if name in one]
            factor = weights.get(name, 1.0) / max(1, sum(count for _, _, count in found))
            a += factor * sum(inputs for inputs, _, _ in found)
            b += factor * sum(outputs for _, outputs, _ in found)
        if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
            fix = "a model that gives NaN or infinity here cannot be merged by its activations; check its weights"
            raise MergeError(f"{self.label}: the inputs are not finite", fix=fix)
        return a.to(self.device), b.to(self.device)

    def solve(
        self, average: Tensor, bias: Tensor | None, ridge: float, weights: Mapping[str, float]
    ) -> tuple[Tensor, Tensor | None]:
        """Weight (out, d) and bias (out,) in float64, near the average's; without a bias none is fitted.

        Raises MergeError where the system is singular.
        """
        a, b = self.totals(weights)
        start = average.double()
        if bias is None:
            a, b = a[:-1, :-1], b[:, :-1]
        else:
            start = torch.cat([start, bias.double()[:, None]], dim=1)
        step = ridge * (float(a.diagonal().mean()) or 1.0)
        system = a + step * torch.eye(len(a), dtype=a.dtype, device=a.device)
        solution = linalg.solve(system, b - start @ a)
        if solution.value is None:
            what = f"{self.label}: the sums of its inputs are singular"
            raise MergeError(what, fix="use more examples, or draw towards the average: --ridge 1e-6")
        found = start + torch.as_tensor(solution.value)
        return (found, None) if bias is None else (found[:, :-1], found[:, -1])


def rows_of(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, width) to the tokens that count, (n, width)."""
    return x.reshape(-1, x.shape[-1]) if mask is None else x[mask.bool()]
