"""TODO kdcli/teacher."""
