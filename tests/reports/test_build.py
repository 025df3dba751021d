"""``vlmerge report`` and what the other commands make of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import fails, ok
from tests.reports import fake
from vlmerge_cli import records
from vlmerge_cli.records import Record
from vlmerge_cli.reports import build


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = fake.study(seeds=(1, 2), widths=(64,), full=False)
    return fake.write(tmp_path / "run", rows, fake.costs(rows))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_study(run: Path) -> None:
    result = ok("report", run)
    assert "holds" in result.out
    names = set(contents(run / "report"))
    assert {"index.html", "report.md", "report.tex", "tables/table-1.csv", "tables/verdicts.csv"} <= names
    for figure in ("figure-3", "layers", "settings"):
        assert (run / "report" / "figures" / f"{figure}.png").read_bytes()[:4] == b"\x89PNG"
        assert b"<svg" in (run / "report" / "figures" / f"{figure}.svg").read_bytes()


def test_json(run: Path, tmp_path: Path) -> None:
    document = ok("report", run, "--out", tmp_path / "made", "--json").document
    assert all(Path(name).exists() for name in document["files"])
    assert Path(document["page"]).name == "index.html"
    assert {"claim", "source", "verdict", "numbers"} == set(document["verdicts"][0])


def test_the_same_records_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    """In another process, and whatever else lies in the folder."""
    build.write(build.load(run), tmp_path / "one")
    (run / "nodes" / "a").mkdir(parents=True)
    (run / "nodes" / "a" / "model.safetensors").write_bytes(b"x")
    (run / "nodes" / "a" / "records.jsonl").write_text("not a record\n")
    command = [sys.executable, "-m", "vlmerge_cli", "report", str(run), "--out", str(tmp_path / "other")]
    subprocess.run(
        command, check=True, capture_output=True, env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "other")

    for path in (tmp_path / "one" / "figures").iterdir():  # neither date nor maker
        assert b"matplotlib" not in path.read_bytes().split(b"</metadata>")[0].lower().replace(b"matplotlib.axis", b"")


@pytest.mark.parametrize("what", ["no folder", "no records", "other kinds", "broken"])
def test_what_cannot_be_reported_is_one_line(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if what != "no folder":
        folder.mkdir()
    if what == "other kinds":
        records.append(folder / "a.jsonl", Record("strange"))
    if what == "broken":
        (folder / "a.jsonl").write_text("nonsense\n")
    message = fails(1, "report", folder)
    assert {"no folder": "no such folder", "no records": "no records", "other kinds": "strange",
            "broken": "line 1 is not a record"}[what] in message  # fmt: skip
    assert not (folder / "report").exists()


def test_a_report_needs_no_torch(run: Path) -> None:
    code = (
        "import sys; from vlmerge_cli.reports import build; from pathlib import Path;"
        f"build.write(build.load(Path({str(run)!r})), Path({str(run / 'x')!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_distance_with_a_report(ckpt: Path, tmp_path: Path) -> None:
    out = tmp_path / "apart"
    document = ok("distance", ckpt, "--pair", "all", "--report", out, "--json").document
    rows = list(records.read(out / "records.jsonl"))
    assert [row.at["where"] for row in rows].count("all") == 3
    assert rows[0].values["tssd"] == document["tssd"]
    whole = (out / "tables" / "distances-v-l.csv").read_text().splitlines()
    assert float(whole[1].split(",")[5]) == pytest.approx(document["tssd"], rel=1e-11)
    before = contents(out)
    ok("report", out, "--out", out)
    assert contents(out) == before


@pytest.mark.parametrize("by", ["module", "slot"])
def test_distances_by_other_things(by: str, ckpt: Path, tmp_path: Path) -> None:
    ok("distance", ckpt, "--by", by, "--report", tmp_path)
    assert (tmp_path / "figures" / f"by-{by}-v-l.svg").exists()


def test_without_a_report_distance_writes_nothing(ckpt: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    ok("distance", ckpt)
    assert set(tmp_path.iterdir()) == before
