"""What both stages agree on: the fields of a Gaussian, rows, manifest, shard files, reading them back."""

from __future__ import annotations

from .encoding import ENCODINGS, Encoding, decode, default_encoding, encode, get_encoding
from .errors import DatasetError, GvitError
from .gaussians import (
    COLOR_RANGE,
    FIELDS,
    MAX_SCALE,
    MIN_OPACITY,
    NUM_FIELDS,
    canonicalize,
    check_gaussians,
    field_ranges,
    min_scale,
)
from .manifest import (
    BLOCK_ROWS,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Block,
    DoneMark,
    FileInfo,
    FitInfo,
    Manifest,
    PsnrSummary,
    ShardSummary,
    build_manifest,
    read_done_mark,
    read_manifest,
)
from .rows import MAX_PSNR, ROW_SCHEMA, Row, rows_to_table, table_to_rows
from .rule import RULE, BlendRule

__all__ = [
    "BLOCK_ROWS",
    "COLOR_RANGE",
    "ENCODINGS",
    "FIELDS",
    "MANIFEST_NAME",
    "MAX_PSNR",
    "MAX_SCALE",
    "MIN_OPACITY",
    "NUM_FIELDS",
    "ROW_SCHEMA",
    "RULE",
    "SCHEMA_VERSION",
    "BlendRule",
    "Block",
    "DatasetError",
    "DoneMark",
    "Encoding",
    "FileInfo",
    "FitInfo",
    "GvitError",
    "Manifest",
    "PsnrSummary",
    "Row",
    "ShardSummary",
    "build_manifest",
    "canonicalize",
    "check_gaussians",
    "decode",
    "default_encoding",
    "encode",
    "field_ranges",
    "get_encoding",
    "min_scale",
    "read_done_mark",
    "read_manifest",
    "rows_to_table",
    "table_to_rows",
]
