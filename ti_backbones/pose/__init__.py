"""Hand pose on top of a backbone: heads, fine-tuning, metrics, evaluation, drawing."""
