"""The numbers of a run: JSON lines always, TensorBoard where it is installed; rank 0 alone writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmerge_cli import ranks, records
from vlmerge_cli.records import Record


class Log:
    """Rows of ``metrics.jsonl`` in a run folder; rows after ``step`` are of a run that was cut short and go."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        self._board: Any = None
        if not ranks.is_main():
            return
        self._cut(step)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        except ImportError:
            pass

    def write(self, kind: str, at: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """One record; its numbers go to TensorBoard too. Rank 0 alone writes."""
        if not ranks.is_main():
            return
        records.append(self.path, Record(kind, at, values))
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, at["step"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _cut(self, step: int) -> None:
        kept = [record for record in records.read(self.path) if record.at.get("step", 0) <= step]
        if kept or self.path.exists():
            temporary = self.path.with_name(".metrics.jsonl.partial")
            temporary.write_text("".join(record.to_json() + "\n" for record in kept), encoding="utf-8")
            temporary.replace(self.path)
