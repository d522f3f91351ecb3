"""What the tables of a run folder hold. Any change of it raises `SCHEMA_VERSION`.

samples.parquet, a row per sample, in the data's order:

| column | meaning |
| --- | --- |
| index | place in the data, from 0 |
| id | the sample's own name |
| prompt, text | what was asked, what was answered |
| concept, forms | the thing looked for, and every word that stands for it |
| seed | seed of the picture's noise |
| input, picture, mask | PNG files, relative to the folder: picture asked about, picture drawn, its region |
| sound | WAV file of a sound that was drawn; `picture` is its spectrogram, of a video a sheet of frames |
| mask_score | how sure the segmenter is, 0 to 1 |
| relevance | norm of the relevance at each [IMG] position |
| text_status, text_error | ok, error, or null where it was not asked |
| image_status, image_error, and the same of audio and video | likewise |
| neurons | number of this sample's rows in neurons.parquet |
| status, error | ok, or error with every reason |

neurons.parquet, the top neurons of every sample that has scores, by sample, modality, method and rank:

| column | meaning |
| --- | --- |
| sample, concept, modality, method | id, concept, text, image, audio or video, reduction method |
| rank | from 1, the highest score |
| layer, unit | the neuron, both from 0 |
| score, activation | float32, averaged over the positions |
| words | what its value vector writes: the words with the highest logits, joined by ", " |

scores.safetensors, per concept, modality and method, under "concept|modality|method|...": `scores` and
`activations`, (L, d) float32 sums over the samples; `count`, int64, their number.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from nam.store.files import StoreError

#: Version of all of the above, also in manifest.json.
SCHEMA_VERSION = 2

#: Samples; the shards' schema is the same.
SAMPLES = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("concept", pa.string()),
        ("forms", pa.list_(pa.string())),
        ("seed", pa.int64()),
        ("input", pa.string()),
        ("picture", pa.string()),
        ("mask", pa.string()),
        ("sound", pa.string()),
        ("mask_score", pa.float32()),
        ("relevance", pa.list_(pa.float32())),
        ("text_status", pa.string()),
        ("text_error", pa.string()),
        ("image_status", pa.string()),
        ("image_error", pa.string()),
        ("audio_status", pa.string()),
        ("audio_error", pa.string()),
        ("video_status", pa.string()),
        ("video_error", pa.string()),
        ("neurons", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ],
    metadata={"nam_schema": str(SCHEMA_VERSION)},
)

#: What version 1 had not: null in its runs.
ADDED = ("sound", "audio_status", "audio_error", "video_status", "video_error")

#: Neurons.
NEURONS = pa.schema(
    [
        ("sample", pa.string()),
        ("concept", pa.string()),
        ("modality", pa.string()),
        ("method", pa.string()),
        ("rank", pa.int32()),
        ("layer", pa.int32()),
        ("unit", pa.int32()),
        ("score", pa.float32()),
        ("activation", pa.float32()),
        ("words", pa.string()),
    ],
    metadata={"nam_schema": str(SCHEMA_VERSION)},
)

#: Neurons in shards: the place of their sample in front, which the merge sorts by.
NEURON_SHARDS = NEURONS.insert(0, pa.field("index", pa.int64()))

#: Names of the merged files.
SAMPLES_FILE = "samples.parquet"
NEURONS_FILE = "neurons.parquet"
SCORES_FILE = "scores.safetensors"
MANIFEST_FILE = "manifest.json"
METRICS_FILE = "metrics.json"
IMAGES = "images"
SHARDS = "shards"


def conform(table: pa.Table, schema: pa.Schema, *, where: Path) -> pa.Table:
    """The columns of `schema`, in its order and types; those that version 1 had not are null where they lack.

    Args:
        table: As it was read.
        schema: Of the tables above.
        where: The file that it comes from.

    Raises:
        StoreError: it lacks another column, holds values of other types, or a row without its place.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    unknown = [name for name in missing if name not in ADDED]
    if unknown:
        raise StoreError(f"{where} lacks the column {unknown[0]}")
    try:
        for name in missing:
            table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise StoreError(f"{where} holds a damaged table: {error}") from error
    if "index" in schema.names and table["index"].null_count:
        raise StoreError(f"{where} holds a damaged table: a row without index")
    return table
