"""The paper's claims, and for each a small function of the records that says what became of it.

A new claim is one function and one line in ``CLAIMS``. Settings are chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vlmerge_cli.reports.distances import LABELS, METRICS, correlations
from vlmerge_cli.reports.document import Finding, Verdict
from vlmerge_cli.reports.judging import judge, slope, together
from vlmerge_cli.reports.paper import CLOSE
from vlmerge_cli.reports.scores import (
    ARCHITECTURES,
    CLASSIFICATION,
    MAA,
    MATCHING,
    MB,
    MSA,
    NLVR2,
    RETRIEVAL,
    SEGMENTATION,
    VQA,
    ZERO_SHOT,
    Pick,
    Score,
    Study,
    Values,
)  # fmt: skip

Findings = Iterator[Finding]
SCORES = (VQA, RETRIEVAL, ZERO_SHOT, MATCHING)


@dataclass(frozen=True)
class Claim:
    text: str
    source: str
    findings: Callable[[Study], Findings]


def verdicts(study: Study) -> tuple[Verdict, ...]:
    """One a claim, in the paper's order."""
    found = [(name, claim, tuple(claim.findings(study))) for name, claim in CLAIMS.items()]
    return tuple(Verdict(name, c.text, c.source, together(findings), findings) for name, c, findings in found)


def much_is_lost(study: Study) -> Findings:
    return _above(study, SCORES, [(MSA, MB)], ("unmerged", "merged"), CLOSE)


def longer_seed_loses_less(study: Study) -> Findings:
    for score in SCORES:
        drops = {k: study.drop(score, Pick(k_seed=k)) for k in study.k_seeds()}
        yield from _falls(score, drops, "loses ")


def best_at_half(study: Study) -> Findings:
    half = Pick(k_seed=0.5)
    others = [Pick(k_seed=k) for k in study.k_seeds() if k != half.k_seed]
    for score in SCORES:
        for other in others:
            names = (f"merged at {_percent(0.5)}", f"at {_percent(other.k_seed)}")
            yield from _above(study, [score], [(half.merged(), other.merged())], names)


def unmerged_gets_worse(study: Study) -> Findings:
    for score in SCORES:
        yield from _falls(score, {k: study.values(score, Pick(k_seed=k)) for k in study.k_seeds()})


def vision_beats_language(study: Study) -> Findings:
    return _above(
        study, SCORES, [(study.recipe.merged(1.0), study.recipe.merged(0.0))], ("vision only", "language only")
    )


def interior_alpha_is_best(study: Study) -> Findings:
    for score in SCORES:
        chosen = study.best(score, study.recipe, "interpolation", among=(0.5, 0.75))
        if chosen:
            for other in (0.0, 0.25, 1.0):
                yield from _above(
                    study, [score], [(chosen, study.recipe.merged(other))], (f"α {chosen.at:g}", f"α {other:g}")
                )


def regmean_is_robust(study: Study) -> Findings:
    for score in SCORES:
        tried = {
            at: study.values(score, study.recipe.merged(at, "regmean"))
            for at in study.tried(score, study.recipe, "regmean")
        }
        seeds = set.intersection(*(set(v.by_seed) for v in tried.values())) if len(tried) > 1 else set()
        if seeds:
            columns = {s: [v.by_seed[s] for v in tried.values()] for s in sorted(seeds)}
            spans = {seed: max(column) - min(column) for seed, column in columns.items()}
            left = Values({s: CLOSE - span for s, span in spans.items()}, 2 * next(iter(tried.values())).variance)
            numbers = f"best γ minus worst γ {Values(spans).number()}, what is left of {CLOSE:g} points"
            yield judge(left, score.label, numbers, beside=not score.finetuned)


def interpolation_is_competitive(study: Study) -> Findings:
    for score in SCORES:
        if other := study.best(score, study.recipe, "regmean"):
            names = ("interpolation α 0.75", f"RegMean γ {other.at:g}")
            yield from _above(study, [score], [(study.recipe.merged(0.75), other)], names, -CLOSE)


def interpolation_beats_arithmetic(study: Study) -> Findings:
    for score in SCORES:
        one, other = (study.best(score, study.recipe, method) for method in ("interpolation", "arithmetic"))
        if one and other:
            names = (f"interpolation α {one.at:g}", f"arithmetic λ {other.at:g}")
            yield from _above(study, [score], [(one, other)], names)


def smaller_lambda_is_better(study: Study) -> Findings:
    for score in SCORES:
        tried = study.tried(score, study.recipe, "arithmetic")
        points = {at: study.values(score, study.recipe.merged(at, "arithmetic")) for at in tried}
        yield from _falls(score, points, "", lambda at: f"λ {at:g}")


def custom_norms_keep(study: Study) -> Findings:
    pick = replace(study.recipe, arch="custom-ln")
    return _above(study, SCORES, [(pick.merged(), pick)], ("merged", "unmerged"), -CLOSE)


def custom_norms_start_lower(study: Study) -> Findings:
    pairs = [(study.recipe, replace(study.recipe, arch="custom-ln"))]
    return _above(study, SCORES, pairs, ("unmerged fully custom", "custom norms"))


def specific_is_best_unmerged(study: Study) -> Findings:
    for arch in [name for name in ARCHITECTURES if name != "specific"]:
        other = MAA if arch == "agnostic" else replace(study.recipe, arch=arch)
        yield from _above(study, SCORES, [(study.recipe, other)], ("unmerged fully custom", ARCHITECTURES[arch]))


def merged_is_on_a_par(study: Study) -> Findings:
    for score in SCORES:
        if ours := study.ours(score):
            names = (f"merged α {ours.at:g}", "agnostic from scratch")
            yield from _above(study, [score], [(ours, MAA)], names, -CLOSE)


def ours_beats_baseline(study: Study) -> Findings:
    for score in (NLVR2, RETRIEVAL, ZERO_SHOT):
        if ours := study.ours(score):
            yield from _above(study, [score], [(ours, MB)], (f"ours α {ours.at:g}", "merging baseline"))


def ours_matches_on_vision(study: Study) -> Findings:
    for score in (CLASSIFICATION, SEGMENTATION):
        for other, name in ((MSA, "MSA"), (MAA, "MAA")):
            if ours := study.ours(score):
                yield from _above(study, [score], [(ours, other)], (f"ours α {ours.at:g}", name), -CLOSE)


def wider_loses_less(study: Study) -> Findings:
    if len(study.widths) < 2:
        return
    wide, narrow = study.widths[0], study.widths[-1]
    for score in SCORES:
        for k in study.k_seeds(width=narrow):
            lost = [study.drop(score, Pick(k_seed=k, width=width)) for width in (narrow, wide)]
            names = (f"lost after {_percent(k)} by width {narrow}", f"by width {wide}")
            yield from _gap(score, lost[0], lost[1], names)


def drop_follows_distance(study: Study) -> Findings:
    for score, found in _correlations(study):
        for metric in METRICS:
            if r := found[metric]:
                yield judge(r, score.label, f"r of {LABELS[metric]}", digits=3, beside=not score.finetuned)


def tssd_follows_best(study: Study) -> Findings:
    for score, found in _correlations(study):
        for metric in [name for name in METRICS if name != "tssd"]:
            yield from _gap(score, found["tssd"], found[metric], ("r of TSSD", LABELS[metric]), digits=3)


def l2_follows_least(study: Study) -> Findings:
    for score, found in _correlations(study):
        for metric in [name for name in METRICS if name != "l2"]:
            yield from _gap(score, found[metric], found["l2"], (f"r of {LABELS[metric]}", "L2"), digits=3)


def merge_before_finetuning(study: Study) -> Findings:
    for k in (0.0, study.recipe.k_seed):
        pick = Pick(k_seed=k)
        names = (f"seed phase {_percent(k)}, merged before fine-tuning", "after")
        yield from _above(study, SCORES, [(pick.merged(), pick.merged(order="after"))], names, CLOSE)


CLAIMS = {
    "much-is-lost": Claim(
        "Merging a specific model that had no seed phase loses much.", "Table 1, section 4.3", much_is_lost
    ),
    "longer-loses-less": Claim("The longer the seed phase, the less is lost.", "section 6.1", longer_seed_loses_less),
    "best-at-half": Claim(
        "The merged model is best when the seed phase takes half of the steps.", "Figure 3, section 6.1", best_at_half
    ),
    "unmerged-gets-worse": Claim(
        "Unmerged, a specific model gets worse with a longer seed phase.", "section 6.1", unmerged_gets_worse
    ),
    "vision-beats-language": Claim(
        "The vision expert alone serves better than the language expert alone.", "Table 2a", vision_beats_language
    ),
    "interior-alpha": Claim("An α of 0.5 or 0.75 is best.", "Table 2a", interior_alpha_is_best),
    "smaller-lambda": Claim("The smaller λ, the better modality arithmetic.", "Table 2b", smaller_lambda_is_better),
    "regmean-robust": Claim(
        f"RegMean is robust to γ: its scores stay within {CLOSE:g} points.", "Table 2c", regmean_is_robust
    ),
    "competitive": Claim(
        "Interpolation at 0.75 is as good as RegMean, which needs Grams.", "section 6.2", interpolation_is_competitive
    ),
    "beats-arithmetic": Claim(
        "Interpolation is better than modality arithmetic.", "section 6.2", interpolation_beats_arithmetic
    ),
    "custom-norms-keep": Claim(
        "With custom norms only, merging loses almost nothing.", "Figure 4, section 6.3", custom_norms_keep
    ),
    "custom-norms-lower": Claim(
        "With custom norms only, the unmerged model is worse than the fully custom one.",
        "Figure 4, section 6.3", custom_norms_start_lower,
    ),
    "specific-best": Claim(
        "Of all architectures the fully custom one is best unmerged.", "Figure 4, section 6.3",
        specific_is_best_unmerged,
    ),
    "on-a-par": Claim(
        "Merged, the fully custom model is as good as an agnostic one trained from scratch.",
        "Figure 4, section 6.3", merged_is_on_a_par,
    ),
    "beats-baseline": Claim(
        "A seed phase and a chosen α beat the merging baseline on NLVR² and retrieval.", "Table 3", ours_beats_baseline
    ),
    "vision-kept": Claim(
        "On vision tasks the merged model is as good as the models that were not merged, or better.", "Table 3",
        ours_matches_on_vision,
    ),
    "wider-loses-less": Claim("Wider models lose less.", "Table 4, section 6.5", wider_loses_less),
    "distance-tells": Claim(
        "What is lost goes with the distance between the experts.", "Table 5, section 7", drop_follows_distance
    ),
    "tssd-best": Claim("TSSD follows the loss most closely.", "Table 5, section 7", tssd_follows_best),
    "l2-least": Claim("L2 follows the loss least closely.", "Table 5, section 7", l2_follows_least),
    "merge-first": Claim(
        "Merging after fine-tuning is much worse than before it.", "footnote 4", merge_before_finetuning
    ),
}  # fmt: skip


def _above(study: Study, scores: Iterable[Score], pairs: Iterable[tuple[Pick, Pick]], names: tuple[str, str],
           least: float = 0.0) -> Findings:  # fmt: skip
    """Whether the first of each pair is above the second by more than ``least`` points."""
    for score in scores:
        for one, other in pairs:
            yield from _gap(score, study.values(score, one), study.values(score, other), names, least)


def _gap(score: Score, one: Values, other: Values, names: tuple[str, str], least: float = 0.0, digits: int = 2
         ) -> Findings:  # fmt: skip
    if gap := one.minus(other):
        numbers = f"{names[0]} {one.number(digits)}, {names[1]} {other.number(digits)}"
        yield judge(gap, score.label, numbers, least, digits, not score.finetuned)


def _falls(score: Score, points: Mapping[float, Values], what: str = "", place: Callable[[float], str] | None = None
           ) -> Findings:  # fmt: skip
    """Whether values fall along ``points``, by their least-squares slope."""
    points = {at: values for at, values in points.items() if values}
    if found := slope(points):
        shown = ", ".join(f"{values.number()} at {(place or _percent)(at)}" for at, values in points.items())
        turned = Values({seed: -value for seed, value in found.by_seed.items()}, found.variance)
        yield judge(turned, score.label, f"{what}{shown}; fall from 0 to 1", beside=not score.finetuned)


def _correlations(study: Study) -> Iterator[tuple[Score, dict[str, Values]]]:
    for score in (RETRIEVAL, ZERO_SHOT):
        yield score, {metric: correlations(study, metric, score).by_seed for metric in METRICS}


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
