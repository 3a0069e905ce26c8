"""What both stages agree on: the fields of a Gaussian, rows, manifest, shard files."""

from __future__ import annotations

from .encoding import ENCODINGS as ENCODINGS
from .encoding import Encoding as Encoding
from .encoding import decode as decode
from .encoding import default_encoding as default_encoding
from .encoding import encode as encode
from .encoding import get_encoding as get_encoding
from .errors import DatasetError as DatasetError
from .errors import GvitError as GvitError
from .files import FileInfo as FileInfo
from .gaussians import COLOR_RANGE as COLOR_RANGE
from .gaussians import FIELDS as FIELDS
from .gaussians import MAX_SCALE as MAX_SCALE
from .gaussians import MIN_OPACITY as MIN_OPACITY
from .gaussians import NUM_FIELDS as NUM_FIELDS
from .gaussians import RULE as RULE
from .gaussians import BlendRule as BlendRule
from .gaussians import canonicalize as canonicalize
from .gaussians import check_gaussians as check_gaussians
from .gaussians import field_ranges as field_ranges
from .gaussians import min_scale as min_scale
from .manifest import BLOCK_ROWS as BLOCK_ROWS
from .manifest import MANIFEST_NAME as MANIFEST_NAME
from .manifest import SCHEMA_VERSION as SCHEMA_VERSION
from .manifest import Block as Block
from .manifest import DoneMark as DoneMark
from .manifest import FitInfo as FitInfo
from .manifest import Manifest as Manifest
from .manifest import PsnrSummary as PsnrSummary
from .manifest import ShardSummary as ShardSummary
from .manifest import build_manifest as build_manifest
from .manifest import read_done_mark as read_done_mark
from .manifest import read_manifest as read_manifest
from .rows import MAX_PSNR as MAX_PSNR
from .rows import ROW_SCHEMA as ROW_SCHEMA
from .rows import Row as Row
from .rows import rows_to_table as rows_to_table
from .rows import table_to_rows as table_to_rows
from .shards import BlockArrays as BlockArrays
from .shards import ShardReader as ShardReader
from .shards import write_tar as write_tar
