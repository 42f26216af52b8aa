"""Simulations of what decides: how often it is wrong, how often it sees what is there."""
