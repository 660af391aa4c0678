"""TODO kdcli/inspection."""
