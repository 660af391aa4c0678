"""TODO kdcli/loss_contract."""
