"""Small readers of machine facts, all over one sysroot: a live machine is the sysroot `/`, a captured one a folder."""
