"""What the readers of request bodies share: a strict model, and unions told apart by JSON's own kinds."""

from pydantic import BaseModel, ConfigDict, Discriminator


class Wire(BaseModel):
    """Strict about the types of what it knows, silent about what it does not know."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


def _shape(value: object) -> str | None:
    if isinstance(value, str):
        return "~text"
    if isinstance(value, list | tuple):
        return "~list"
    return "~object" if isinstance(value, dict | BaseModel) else None


def one_of(message: str) -> Discriminator:
    return Discriminator(_shape, custom_error_type="wrong_shape", custom_error_message=message)
