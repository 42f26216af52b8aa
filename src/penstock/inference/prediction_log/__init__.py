"""What was asked and answered: segments on disk before the caller hears of it, then Parquet."""
