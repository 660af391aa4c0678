"""TODO kdcli/models/files."""
