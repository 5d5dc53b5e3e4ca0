"""`edgeagent models`: what models there are, what is here, what fits, and how to get or make more."""

from edgeagent.cli.models import adopting, calibrate, files, listing, slicing, variants
from edgeagent.cli.models.group import models

__all__ = ["adopting", "calibrate", "files", "listing", "models", "slicing", "variants"]
