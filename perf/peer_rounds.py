"""What engines did side by side, round by round, as `perf.peers` writes it and `perf.report` shows it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec

from perf.provenance import Provenance

Figures = dict[str, float]


class Round(msgspec.Struct):
    """One start of one engine. With a `problem` the figures are those from before it."""

    figures: Figures
    problem: str = ""


class PeerRounds(msgspec.Struct):
    """`engines` has the reference first."""

    provenance: Provenance
    engines: dict[str, list[Round]]

    @property
    def num_rounds(self) -> int:
        return max(map(len, self.engines.values()), default=0)

    def figure_names(self) -> list[str]:
        """All figures, in the order in which they were measured."""
        rounds = (found for rounds in self.engines.values() for found in rounds)
        return list(dict.fromkeys(name for found in rounds for name in found.figures))

    def values(self, engine: str, figure: str) -> list[float]:
        """Of every round that has it."""
        return [found.figures[figure] for found in self.engines[engine] if figure in found.figures]


def read(path: Path) -> PeerRounds:
    """Raises `ValueError` if the file is something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=PeerRounds)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} was not written by perf.peers: {error}") from error


def markdown(rounds: PeerRounds) -> str:
    """The table of ratios, and the rounds that failed with their reasons."""
    failed = list(_failed(rounds))
    if not failed:
        return ratio_table(rounds)
    return "\n".join([ratio_table(rounds), "", "| did not finish | round | reason |", "|---|---|---|", *failed])


def ratio_table(rounds: PeerRounds) -> str:
    """Medians with their range, and the reference's median over that of each other engine."""
    reference, *others = rounds.engines
    heads = [*rounds.engines, *(f"{reference} / {name}" for name in others)]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for figure in rounds.figure_names():
        ours = rounds.values(reference, figure)
        cells = [_cell(rounds.values(name, figure)) for name in rounds.engines]
        cells += [_ratio(ours, rounds.values(name, figure)) for name in others]
        lines.append(f"| {_singular(figure)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _failed(rounds: PeerRounds) -> Iterator[str]:
    for engine, found in rounds.engines.items():
        for number, one in enumerate(found, 1):
            if one.problem:
                yield f"| {engine} | {number} | {one.problem.replace('|', '/')} |"


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(ours) / statistics.median(theirs):.3g}×" if ours and theirs else "–"


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.4g} ({min(values):.4g}–{max(values):.4g})"


def _singular(figure: str) -> str:
    return figure.removesuffix("s") if figure.endswith(", 1 streams") else figure
