"""What the LoRA adapters of a variant take beside it: those whose files are here, as many as are loaded at once."""

from edgeagent.execution.loading import MAX_ADAPTERS
from edgeagent.model.store import ModelStore, StoredVariant


def adapter_bytes(store: ModelStore, stored: StoredVariant, sequences: int) -> int:
    """Bytes of memory at most: an adapter takes what its file does. One that is pulled later is not in it."""
    files = [store.path(stored.card, file) for file in stored.card.adapters_of(stored.variant)]
    sizes = sorted((path.stat().st_size for path in files if path.is_file()), reverse=True)
    return sum(sizes[: most_loaded(sequences)])


def most_loaded(sequences: int) -> int:
    """Each sequence may have another one, and the one that was applied last stays until another is."""
    return max(MAX_ADAPTERS, sequences + 1)
