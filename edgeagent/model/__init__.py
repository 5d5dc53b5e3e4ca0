"""Models: cards, files, variants, selection, reduction."""
