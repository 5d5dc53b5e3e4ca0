"""What was heard and seen: the typed events that microphones, cameras and files turn into."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Point = tuple[float, float]
"""x and y in fractions of the image's width and height; a face at the rim may lie partly outside."""


class PerceptPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SpeechSegment(PerceptPart):
    """Somebody spoke; seconds from the beginning of the stream."""

    kind: Literal["speech"] = "speech"
    start_s: float = Field(ge=0)
    end_s: float = Field(ge=0)
    probability: Fraction
    """Mean over the segment."""


class WakeWord(PerceptPart):
    """The phrase ended at `at_s`."""

    kind: Literal["wake_word"] = "wake_word"
    phrase: str
    at_s: float = Field(ge=0)
    probability: Fraction


class FaceSeen(PerceptPart):
    """A face in one image; `source` names the image."""

    kind: Literal["face"] = "face"
    source: str
    left: float
    top: float
    right: float
    bottom: float
    probability: Fraction
    landmarks: dict[str, Point]


Percept = Annotated[SpeechSegment | WakeWord | FaceSeen, Field(discriminator="kind")]
