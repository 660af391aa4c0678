"""TODO kdcli/models/runtimes."""
