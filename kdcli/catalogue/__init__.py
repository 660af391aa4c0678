"""What kinds of losses say of themselves, in words."""
