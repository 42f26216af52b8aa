"""One module per outside technology; only `wiring` imports them."""
