import os
import signal
from pathlib import Path

import pytest

from vlmerge_cli.outputs import temporary
from vlmerge_cli.outputs.whole import cache_folder, whole_folder, write_whole


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VLMERGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("VLMERGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "vlmerge"


def test_a_folder_that_is_interrupted_leaves_nothing(tmp_path: Path):
    def interrupted() -> None:
        with whole_folder(tmp_path / "made") as made:
            (made / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_makers_wins(tmp_path: Path):
    with whole_folder(tmp_path / "made") as slow:
        (slow / "by").write_text("slow")
        with whole_folder(tmp_path / "made") as fast:
            (fast / "by").write_text("fast")
    assert (tmp_path / "made" / "by").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    write_whole(tmp_path / "a" / "file", b"first")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a" / "file", "text")  # type: ignore[arg-type]
    assert (tmp_path / "a" / "file").read_bytes() == b"first"
    assert len(list((tmp_path / "a").iterdir())) == 1


@pytest.mark.parametrize("flags", [os.O_TRUNC, os.O_APPEND])
def test_a_descriptor_is_written_to_where_it_stands(flags: int, tmp_path: Path):
    """As ``--csv /dev/stdout > out`` and ``>> out`` do: what the stream had before stays."""
    path = tmp_path / "out"
    path.write_text("before\n")
    stream = os.open(path, os.O_WRONLY | flags)
    os.write(stream, b"one\n")
    write_whole(Path(f"/dev/fd/{stream}"), b"two\n")
    os.write(stream, b"three\n")
    os.close(stream)
    before = "before\n" if flags == os.O_APPEND else ""
    assert path.read_text() == f"{before}one\ntwo\nthree\n"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_second_interrupt_does_not_cut_off_the_cleaning_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two Ctrl-C of someone impatient: the second comes while the folder is being removed."""
    inner = temporary.remove

    def remove(path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        inner(path)

    def interrupted() -> None:
        with temporary.temporary_for(tmp_path / "out", folder=True) as made:
            (made / "half").write_text("x")
            raise KeyboardInterrupt

    monkeypatch.setattr(temporary, "remove", remove)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
