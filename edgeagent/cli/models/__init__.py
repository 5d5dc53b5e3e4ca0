"""`edgeagent models`: what models there are, what is here, what fits, and how to get or make more."""

from edgeagent.cli.models import files, listing, variants
from edgeagent.cli.models.group import models

__all__ = ["files", "listing", "models", "variants"]
