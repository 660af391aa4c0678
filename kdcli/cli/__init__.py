"""The `kd` command: one file per command."""
