"""Arrow schemas of every table that gifdex writes. `docs/formats.md` explains them to other readers."""

from __future__ import annotations

import pyarrow as pa

# One row per readable item of the corpus. `size` is in bytes, `modified` in seconds since 1970 as the filesystem
# reports it; they only serve to recognise unchanged files. `metadata` is a JSON object of the catalog file's other
# columns. `damage` says what is wrong with a partial item: only the frames before the damage were indexed.
# `duplicate_of` is the id of the near duplicate that was indexed in place of this item.
CATALOG = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.float64(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("damage", pa.string()),
        pa.field("duplicate_of", pa.string()),
    ]
)

# One row per item that could not be indexed. `stage` is scan or encode, `error` the class of the error, and `reason`
# its message. `sha256` is null if the bytes could not be read.
REJECTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

# One row per scanned file: a catalog row if `error` is null, otherwise a reject. Exists only during a scan.
SCAN_RESULTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("modified", pa.float64()),
        pa.field("error", pa.string()),
        pa.field("reason", pa.string()),
    ]
)

# One row per indexed item, in the order of the index.
ITEMS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("metadata", pa.string()),
    ]
)

# The same with 64-bit offsets, for the index's Arrow file, which appends columns for filters.
STORED_ITEMS = pa.schema([pa.field(field.name, pa.large_string(), nullable=field.nullable) for field in ITEMS])


def features(dimensions: int, fingerprint: str) -> pa.Schema:
    """One row per GIF that was tried, keyed by the SHA-256 of its bytes.

    `features` holds `dimensions` little-endian float32 values. It is null if the GIF could not be decoded: then
    `error` and `reason` say why, and `attempt` names the decoder and the limits, so that another decoder or other
    limits try again. A `reason` without an `error` describes damage; only the frames before it count. `frames` counts
    the distinct frames that were encoded. `width` and `height` are those of the canvas in pixels; parts that older
    versions of gifdex wrote do not have them.
    """
    return pa.schema(
        [
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("frames", pa.int32(), nullable=False),
            pa.field("features", pa.binary(4 * dimensions)),
            pa.field("error", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("attempt", pa.string(), nullable=False),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
        ],
        metadata={"dtype": "float32", "dimensions": str(dimensions), "fingerprint": fingerprint},
    )


def frame_features(dimensions: int, fingerprint: str) -> pa.Schema:
    """One row per GIF that was tried, as in `features`, with the features of each of its `frames` instead of the mean.

    `features` holds `frames` times `dimensions` little-endian float16 values, null if there are none. The lists have
    `frames` elements each: `numbers` are the frames' indexes in the file, rising, and `milliseconds` when each is first
    shown.
    """
    pooled = features(dimensions, fingerprint)
    own = {
        "features": [
            pa.field("features", pa.large_binary()),
            pa.field("numbers", pa.list_(pa.int32())),
            pa.field("milliseconds", pa.list_(pa.int64())),
        ]
    }
    columns = [column for field in pooled for column in own.get(field.name, [field])]
    return pa.schema(columns, metadata={**pooled.metadata, b"dtype": b"float16"})


def embeddings(dimensions: int) -> pa.Schema:
    """One row per indexed item: unit vectors in the joint space, of the GIF and of its caption if it has one."""
    value = pa.field("element", pa.float32(), nullable=False)  # its name in Parquet
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(value, dimensions), nullable=False),
            # A list of variable size: Arrow cannot read nulls of fixed-size lists back from Parquet.
            pa.field("caption_embedding", pa.list_(value)),
        ]
    )
