"""Monitor: the same checks on production, each period, and what follows from them.

period      run a period's checks: drift, quality on the labels that have come, service
tables      the prediction log's Parquet, asked with DuckDB
alerts      which alerts open, go on and close
"""
