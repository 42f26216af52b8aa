"""Data that git does not keep: bound, fetched by leave, put in place, and what was read of it."""
