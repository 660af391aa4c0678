"""Opening models, and what distillation needs of them."""
