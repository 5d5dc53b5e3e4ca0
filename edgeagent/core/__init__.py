"""Types every floor shares: frozen, validated, free of I/O."""
