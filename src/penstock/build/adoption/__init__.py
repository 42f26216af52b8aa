"""Models that were trained elsewhere: through the gate, or not in."""
