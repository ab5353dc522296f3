"""How much is run: everything, or a twentieth of it as a smoke test.
Knows no subject."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Counts, rounds and seconds of one run of the benchmarks."""

    quick: bool = False
    """A smoke run: every row appears, its figures mean nothing."""

    def count(self, number: int) -> int:
        return max(200, number // 20) if self.quick else number

    def rounds(self, number: int) -> int:
        return 1 if self.quick else number

    def seconds(self, number: float) -> float:
        return number / 4 if self.quick else number
