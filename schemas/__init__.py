"""What both stages agree on: the fields of a Gaussian, rows, manifest, shard files."""

from __future__ import annotations

from .encoding import ENCODINGS, Encoding, decode, default_encoding, encode, get_encoding
from .errors import DatasetError, GvitError
from .files import FileInfo
from .gaussians import (
    COLOR_RANGE,
    FIELDS,
    MAX_SCALE,
    MIN_OPACITY,
    NUM_FIELDS,
    RULE,
    BlendRule,
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
    FitInfo,
    Manifest,
    PsnrSummary,
    ShardSummary,
    build_manifest,
    read_done_mark,
    read_manifest,
)
from .rows import MAX_PSNR, ROW_SCHEMA, Row, rows_to_table, table_to_rows
from .shards import BlockArrays, ShardReader, write_tar

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
    "BlockArrays",
    "DatasetError",
    "DoneMark",
    "Encoding",
    "FileInfo",
    "FitInfo",
    "GvitError",
    "Manifest",
    "PsnrSummary",
    "Row",
    "ShardReader",
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
    "write_tar",
]
