"""Formal languages, without a model: trees of them, GBNF and regular expressions read into trees, texts judged."""
