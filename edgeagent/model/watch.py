"""Follows one answer of a cascade's small model, token by token: decided early where that was learned. Pure."""

from collections.abc import Sequence

from edgeagent.core.generation import TokenStep
from edgeagent.model.cascade import EARLY_TOKENS, Calibration, Fit, confidence_of


class Watch:
    """Says when the answer is decided, and how."""

    def __init__(self, calibration: Calibration | Fit) -> None:
        self._calibration = calibration
        self._tokens: list[TokenStep] = []
        self.confidence: float | None = None
        """That which decided."""
        self.decided_at: int | None = None
        """Tokens after which it was decided early; None: at the end, or not yet."""
        self.bound: float | None = None
        """What that confidence was held against."""

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    def add(self, tokens: Sequence[TokenStep]) -> bool | None:
        """Whether the answer stands; None while that is open."""
        before, early = len(self._tokens), self._calibration.early
        self._tokens += tokens
        if early is None or not before <= EARLY_TOKENS < len(self._tokens):
            return None
        score = confidence_of(early.confidence, self._tokens[:EARLY_TOKENS], is_cut=False)
        if early.accept is not None and score >= early.accept:
            return self._decided(score, early.accept, stands=True)
        if early.reject is not None and score <= early.reject:
            return self._decided(score, early.reject, stands=False)
        return None

    def _decided(self, score: float, bound: float, *, stands: bool) -> bool:
        self.confidence, self.bound, self.decided_at = score, bound, len(self._tokens)
        return stands

    def end(self, *, is_cut: bool) -> bool:
        """Whether the whole answer stands."""
        self.bound = self._calibration.threshold
        self.confidence = confidence_of(self._calibration.confidence, self._tokens, is_cut=is_cut)
        return self.confidence >= self._calibration.threshold
