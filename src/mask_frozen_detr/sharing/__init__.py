"""A run for others: its model card, and the Hugging Face hub."""
