"""What is known of a link, from measurements only."""

from dataclasses import dataclass, replace

SMOOTHING = 0.3
"""Weight of a new sample in the moving estimates."""


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """Round-trip time and goodput as seen by a device; None: not measured yet."""

    rtt_s: float | None = None
    down_bytes_s: float | None = None
    up_bytes_s: float | None = None

    def with_rtt(self, sample_s: float) -> "LinkEstimate":
        return replace(self, rtt_s=_blend(self.rtt_s, sample_s))

    def with_down(self, sample_bytes_s: float) -> "LinkEstimate":
        return replace(self, down_bytes_s=_blend(self.down_bytes_s, sample_bytes_s))

    def with_up(self, sample_bytes_s: float) -> "LinkEstimate":
        return replace(self, up_bytes_s=_blend(self.up_bytes_s, sample_bytes_s))


def _blend(old: float | None, sample: float) -> float:
    return sample if old is None else (1 - SMOOTHING) * old + SMOOTHING * sample
