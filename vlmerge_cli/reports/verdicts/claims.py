"""The paper's claims, and for each a small function of the records that says what became of it.

A new claim is one function and one line in ``CLAIMS``. Settings are chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vlmerge_cli.metrics import METRICS
from vlmerge_cli.reports.document import Verdict
from vlmerge_cli.reports.labels import percent
from vlmerge_cli.reports.paper import K_SEED
from vlmerge_cli.reports.study_distances import correlations
from vlmerge_cli.reports.study_records import (
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
from vlmerge_cli.reports.verdicts.comparisons import Findings, above, falls, gap, ours
from vlmerge_cli.reports.verdicts.rule import CLOSE, judge, together

SCORES = (VQA, RETRIEVAL, ZERO_SHOT, MATCHING)


@dataclass(frozen=True)
class Claim:
    """What the paper says, where it says it, and what yields the findings about it."""

    text: str
    source: str
    findings: Callable[[Study], Findings]


def verdicts(study: Study) -> tuple[Verdict, ...]:
    """One a claim, in the paper's order."""
    found = [(name, claim, tuple(claim.findings(study))) for name, claim in CLAIMS.items()]
    return tuple(Verdict(name, c.text, c.source, together(findings), findings) for name, c, findings in found)


def much_is_lost(study: Study) -> Findings:
    for score in SCORES:
        yield from above(study, score, ("unmerged", MSA), {"merged": MB}, CLOSE)


def longer_seed_loses_less(study: Study) -> Findings:
    for score in SCORES:
        drops = {k: study.drop(score, Pick(k_seed=k)) for k in study.k_seeds()}
        yield from falls(score, drops, "loses ")


def best_at_half(study: Study) -> Findings:
    half = (f"merged at {percent(0.5)}", Pick(k_seed=0.5).merged())
    phases = sorted({*study.k_seeds(), *K_SEED} - {0.5})
    for score in SCORES:
        yield from above(study, score, half, {f"at {percent(k)}": Pick(k_seed=k).merged() for k in phases})


def unmerged_gets_worse(study: Study) -> Findings:
    for score in SCORES:
        yield from falls(score, {k: study.values(score, Pick(k_seed=k)) for k in study.k_seeds()})


def vision_beats_language(study: Study) -> Findings:
    vision, language = study.recipe.merged(1.0), study.recipe.merged(0.0)
    for score in SCORES:
        yield from above(study, score, ("vision only", vision), {"language only": language})


def interior_alpha_is_best(study: Study) -> Findings:
    others = {f"α {at:g}": study.recipe.merged(at) for at in (0.0, 0.25, 1.0)}
    for score in SCORES:
        if chosen := study.best(score, study.recipe, "interpolation", among=(0.5, 0.75)):
            yield from above(study, score, (f"α {chosen.at:g}", chosen), others)


def regmean_is_robust(study: Study) -> Findings:
    """The best γ's score minus the worst's, per seed, must leave something of CLOSE points."""
    for score in SCORES:
        tried = [study.recipe.merged(at, "regmean") for at in study.tried(score, study.recipe, "regmean")]
        found = [study.values(score, pick) for pick in tried]
        seeds = set.intersection(*(set(values.by_seed) for values in found)) if len(found) > 1 else set()
        columns = {seed: [values.by_seed[seed] for values in found] for seed in sorted(seeds)}
        if columns:
            spans = Values({seed: max(column) - min(column) for seed, column in columns.items()})
            left = Values({seed: CLOSE - span for seed, span in spans.by_seed.items()}, 2 * found[0].variance)
            numbers = f"best γ minus worst γ {spans.number()}, what is left of {CLOSE:g} points"
            yield judge(left, score.label, numbers, beside=not score.finetuned)


def interpolation_is_competitive(study: Study) -> Findings:
    interpolation = ("interpolation α 0.75", study.recipe.merged(0.75))
    for score in SCORES:
        if other := study.best(score, study.recipe, "regmean"):
            yield from above(study, score, interpolation, {f"RegMean γ {other.at:g}": other}, -CLOSE)


def interpolation_beats_arithmetic(study: Study) -> Findings:
    for score in SCORES:
        one, other = (study.best(score, study.recipe, method) for method in ("interpolation", "arithmetic"))
        if one and other:
            yield from above(study, score, (f"interpolation α {one.at:g}", one), {f"arithmetic λ {other.at:g}": other})


def smaller_lambda_is_better(study: Study) -> Findings:
    for score in SCORES:
        tried = study.tried(score, study.recipe, "arithmetic")
        points = {at: study.values(score, study.recipe.merged(at, "arithmetic")) for at in tried}
        yield from falls(score, points, "", lambda at: f"λ {at:g}")


def custom_norms_keep(study: Study) -> Findings:
    pick = replace(study.recipe, arch="custom-ln")
    for score in SCORES:
        yield from above(study, score, ("merged", pick.merged()), {"unmerged": pick}, -CLOSE)


def custom_norms_start_lower(study: Study) -> Findings:
    norms = replace(study.recipe, arch="custom-ln")
    for score in SCORES:
        yield from above(study, score, ("unmerged fully custom", study.recipe), {"custom norms": norms})


def specific_is_best_unmerged(study: Study) -> Findings:
    others = {name: MAA if arch == MAA.arch else replace(study.recipe, arch=arch)
              for arch, name in ARCHITECTURES.items() if arch != study.recipe.arch}  # fmt: skip
    for score in SCORES:
        yield from above(study, score, ("unmerged fully custom", study.recipe), others)


def merged_is_on_a_par(study: Study) -> Findings:
    for score in SCORES:
        if ours := study.ours(score):
            yield from above(study, score, (f"merged α {ours.at:g}", ours), {"agnostic from scratch": MAA}, -CLOSE)


def ours_beats_baseline(study: Study) -> Findings:
    return ours(study, (NLVR2, RETRIEVAL, ZERO_SHOT), {"merging baseline": MB})


def ours_matches_on_vision(study: Study) -> Findings:
    return ours(study, (CLASSIFICATION, SEGMENTATION), {"MSA": MSA, "MAA": MAA}, -CLOSE)


def wider_loses_less(study: Study) -> Findings:
    """The drop at each narrower width minus that at the main one, at every seed phase that both have."""
    for narrow in [width for width in study.widths if width < study.width]:
        for score in SCORES:
            for k in study.k_seeds(width=narrow):
                lost = [study.drop(score, Pick(k_seed=k, width=width)) for width in (narrow, study.width)]
                names = (f"width {narrow} loses after {percent(k)}", f"width {study.width}")
                yield from gap(score, lost[0], lost[1], names)


def drop_follows_distance(study: Study) -> Findings:
    """Pearson's r of drop and distance over the seed phases of each seed is above 0."""
    for score, found in _correlations(study):
        for metric in METRICS:
            if r := found[metric]:
                numbers = f"r of {METRICS[metric].heading} {r.number(3)}"
                yield judge(r, score.label, numbers, digits=3, beside=not score.finetuned)


def tssd_follows_best(study: Study) -> Findings:
    for score, found in _correlations(study):
        for metric in [name for name in METRICS if name != "tssd"]:
            yield from gap(score, found["tssd"], found[metric], ("r of TSSD", METRICS[metric].heading), digits=3)


def l2_follows_least(study: Study) -> Findings:
    for score, found in _correlations(study):
        for metric in [name for name in METRICS if name != "l2"]:
            yield from gap(score, found[metric], found["l2"], (f"r of {METRICS[metric].heading}", "L2"), digits=3)


def merge_before_finetuning(study: Study) -> Findings:
    for score in SCORES:
        for k in (0.0, study.recipe.k_seed):
            before, after = (Pick(k_seed=k).merged(order=order) for order in ("before", "after"))
            first = (f"seed phase {percent(k)}: merged before fine-tuning", before)
            yield from above(study, score, first, {"after": after}, CLOSE)


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


def _correlations(study: Study) -> Iterator[tuple[Score, dict[str, Values]]]:
    for score in (RETRIEVAL, ZERO_SHOT):
        yield score, {metric: correlations(study, metric, score).by_seed for metric in METRICS}
