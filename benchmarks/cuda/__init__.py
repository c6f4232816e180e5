"""All that waits for a card, in one call: `python dev.py cuda`."""
