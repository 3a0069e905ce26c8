"""Where images come from: folders, tar files, Parquet files."""
