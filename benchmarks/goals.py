"""What must be reached, as data, and whether the newest records reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.latest import fit, growth, latest, pick, times
from benchmarks.merge import LIMIT, MERGEKIT, MERGEKIT_YAML, OURS, PLAIN

#: How straight a line through the times at all sizes must be, and how much peak memory may differ over them.
STRAIGHT, FLAT = 0.98, 1.25
#: Sizes that these goals speak of, in GB of input.
MOST_GB = 9
CHOLESKY, INVERSE = "RegMean: Cholesky", "published: torch.inverse"
SUMS, PRODUCTS = "running sums", "published way: float64 products"


@dataclass(frozen=True)
class Goal:
    """``form`` says a number in words; ``most``: the bound is a ceiling, else a floor."""

    work: str
    beside: str
    form: str
    most: bool
    bound: float
    measure: Callable[[], float | None]

    def row(self) -> list[str] | None:
        """Cells of the table; None while there is no record."""
        found = self.measure()
        if found is None:
            return None
        holds = found <= self.bound if self.most else found >= self.bound
        must = f"{'at most' if self.most else 'at least'} {self.form.format(self.bound)}"
        return [self.work, self.beside, must, self.form.format(found), "yes" if holds else "no"]


def ratio(name: str, work: str, over: str, under: str) -> Callable[[], float | None]:
    """Wall time of one row in that of another."""

    def measure() -> float | None:
        one, other = pick(name, work, over), pick(name, work, under)
        return times(one, other) if one and other else None

    return measure


def of(name: str, work: str, row: str, value: str, under: str | None = None) -> Callable[[], float | None]:
    """A value of one row, or how often it goes into that of another."""

    def measure() -> float | None:
        one, other = pick(name, work, row), pick(name, work, under or row)
        if one is None or other is None:
            return None
        return float(other.values[value] / one.values[value]) if under else float(one.values[value])

    return measure


def largest_error() -> float | None:
    record = pick("distance", "W3", "vlmerge distance")
    return max(record.values["errors"].values()) if record else None


def largest_difference() -> float | None:
    """Between our solutions and the published ones, at all condition numbers up to 1e5."""
    found = [one.values["difference"] for one in (*latest("conditions"), *latest("solve"))]
    return max(found, default=None)


def straightness(kind: str) -> Callable[[], float | None]:
    def measure() -> float | None:
        sizes, seconds, _ = growth(f"{kind}, 2 threads", MOST_GB)
        return fit(sizes, seconds).r_squared if len(sizes) > 2 else None

    return measure


def swelling(kind: str) -> Callable[[], float | None]:
    """Peak memory at the largest size in that at the smallest."""

    def measure() -> float | None:
        _, _, peaks = growth(f"{kind}, 2 threads", MOST_GB)
        return peaks[-1] / peaks[0] if len(peaks) > 1 else None

    return measure


SCRIPT, DISTANCE, TWO = "plain script", "vlmerge distance", "W4, 2 processors"
GOALS = (
    Goal("W1 interpolation", "C program doing the same", "{:.3g} times its time", True, 3.5,
         ratio("merge", "W1", OURS, LIMIT)),
    Goal("W1 interpolation", "", "{:.0f} MiB", True, 80, of("merge", "W1", OURS, "peak_mib")),
    Goal("W1 interpolation", "plain script", "{:.2g} of its time", True, 0.3, ratio("merge", "W1", OURS, PLAIN)),
    Goal("W1'", "mergekit linear", "{:.0f} times faster", False, 12, ratio("merge", "W1", MERGEKIT, OURS)),
    Goal("W1'", "mergekit linear", "{:.0f} times less memory", False, 20,
         of("merge", "W1", OURS, "peak_mib", MERGEKIT)),
    Goal("W2 bfloat16, sharded", "mergekit-yaml linear", "{:.1f} times faster", False, 8,
         ratio("merge", "W2", MERGEKIT_YAML, OURS)),
    Goal("W2 bfloat16, sharded", "", "{:.0f} MiB", True, 96, of("merge", "W2", OURS, "peak_mib")),
    Goal("W3 all four distances", "plain torch script", "{:.1f} times faster", False, 8,
         ratio("distance", "W3", SCRIPT, DISTANCE)),
    Goal("W3 all four distances", "", "{:.0f} MiB", True, 96, of("distance", "W3", DISTANCE, "peak_mib")),
    Goal("W3 all four distances", "float64", "{:.0e} relative error", True, 1e-9, largest_error),
    Goal("W4 Grams, one layer", "published way", "{:.1f} times the tokens/s", False, 3,
         ratio("sums", TWO, PRODUCTS, SUMS)),
    Goal("W4 Grams, one layer", "float64", "{:.1e} relative error", True, 1e-7, of("sums", TWO, SUMS, "error")),
    Goal("W4 solve, 12 layers", "published torch.inverse", "{:.1f} times faster", False, 1.8,
         ratio("solve", "W4", INVERSE, CHOLESKY)),
    Goal("W4 solve, conditions up to 1e5", "published torch.inverse", "{:.0e} apart", True, 1e-10, largest_difference),
    *(Goal(f"growth of {kind}", "a straight line", "{:.3f} R²", False, STRAIGHT, straightness(kind))
      for kind in ("merge", "distance")),
    *(Goal(f"growth of {kind}", "its smallest", "{:.2f} times the peak memory", True, FLAT, swelling(kind))
      for kind in ("merge", "distance")),
)  # fmt: skip


def rows() -> list[list[str]]:
    return [row for goal in GOALS if (row := goal.row())]
