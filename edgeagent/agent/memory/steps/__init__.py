"""The steps of the memory file's schema, one a file: what they do never changes once a release has done it."""
