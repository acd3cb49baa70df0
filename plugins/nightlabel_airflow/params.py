"""The trigger form's parameters that Dags share, by section of the form. Light at import."""

from __future__ import annotations

from collections.abc import Mapping

from airflow.sdk import Param

WITHOUT_NUL = r"^[^\x00]*$"
"""No database stores it as text."""

SHARE_VARIABLE = "NIGHTLABEL_SHADOW_SHARE"

OBJECT_ADDRESS = r"^(s3://[^/\x00]+/[^\x00]+)?$"
"""An object in a bucket: a path would be looked for on whichever worker runs the task."""


MODEL_ADDRESS = r"^\s*((https|s3)://[^\s/\x00]+/[^\x00]+|[\w-]+/[\w.-]+/[A-Za-z0-9]+/[\w.-]+(/\d+)?)?\s*$"
"""Where a model may be fetched from: no path, lest the form read the worker's files, and no plain HTTP."""

LABELS_ADDRESS = r"^\s*(imagenet|s3://[^\s/\x00]+/[^\x00]+)?\s*$"


def source_params(section: str) -> dict[str, Param]:
    """Return the parameters that say where the images are."""
    return {
        "bucket": Param(
            "",
            type="string",
            maxLength=63,
            pattern=WITHOUT_NUL,
            section=section,
            description="Bucket of the images. Empty: the bucket (and prefix) in the extra of the connection "
            "images_s3.",
        ),
        "prefix": Param(
            "",
            type="string",
            maxLength=1024,
            pattern=WITHOUT_NUL,
            section=section,
            description="Only keys that begin with this text; it need not end at a slash. Empty: every key.",
        ),
    }


def manifest_params(section: str) -> dict[str, Param]:
    """Return the parameters that say what names the objects, where the bucket is not to be listed."""
    return {
        "manifest": Param(
            None,
            type=["null", "string"],
            maxLength=2048,
            pattern=OBJECT_ADDRESS,
            section=section,
            description="Do not list the bucket: take the objects that this file names, such as "
            "s3://lists/2026-11-24.csv. CSV with a header, JSON Lines, Parquet, or text with a key on each line; "
            "columns key and, if known, etag, size and last_modified. Bucket and prefix choose among its rows.",
        ),
        "inventory": Param(
            None,
            type=["null", "string"],
            maxLength=2048,
            pattern=OBJECT_ADDRESS,
            section=section,
            description="Do not list the bucket: take the objects of an S3 Inventory report, by the address of its "
            "manifest.json, such as s3://lists/photos/daily/2026-11-24T01-00Z/manifest.json.",
        ),
    }


def amount_params(section: str) -> dict[str, Param]:
    """Return the parameters that say how much of what was found is classified."""
    return {
        "max_images": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=1_000_000_000,
            section=section,
            description="Classify at most this many images; the rest is deferred to another run. Empty: no bound.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            section=section,
            description="Only say what would be classified; nothing is stored.",
        ),
    }


def time_param(section: str, description: str) -> Param:
    """Return a parameter that is a moment, or empty."""
    return Param(
        None,
        type=["null", "string"],
        format="date-time",
        maxLength=40,
        section=section,
        description=description,
    )


def text_param(section: str, description: str) -> Param:
    """Return a parameter that is a text, or empty."""
    return Param(
        None, type=["null", "string"], maxLength=400, pattern=WITHOUT_NUL, section=section, description=description
    )


def rate_params(section: str) -> dict[str, Param]:
    """Return the parameter that says how fast a run may go."""
    return {
        "images_per_second": Param(
            None,
            type=["null", "number"],
            minimum=0.01,
            maximum=100_000,
            section=section,
            description="Begin at most this many images a second, all workers of the run together. Empty: as many as "
            "go.",
        ),
    }


def share_in(environment: Mapping[str, str]) -> float | None:
    """Return the share that ``NIGHTLABEL_SHADOW_SHARE`` names: 0 if it is unset or empty, None if it is no share."""
    text = environment.get(SHARE_VARIABLE, "").strip() or "0"
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None  # NaN is not, either


def shadow_params(section: str, environment: Mapping[str, str]) -> dict[str, Param]:
    """Return the parameter that says what share of a run's images the shadow model looks at.

    A variable that is no share counts as 0, of which ``discover`` warns: a comparison must not keep the nights from
    being labelled.

    Args:
        section: Of the form.
        environment: Environment variables; ``NIGHTLABEL_SHADOW_SHARE`` is the default of scheduled runs.
    """
    share = share_in(environment)
    return {
        "shadow_share": Param(
            share or 0.0,
            type="number",
            minimum=0,
            maximum=1,
            section=section,
            description="Afterwards the model with the alias shadow looks at this share of the images that were "
            "labelled, for comparison only (0 to 1): a run of its own, of the Dag shadow_images.",
        ),
    }


def how_params(*, model: str = "production") -> dict[str, Param]:
    """Return the parameters that say with what images are classified.

    Args:
        model: The default, an alias.
    """
    return {
        "model": Param(
            model,
            type="string",
            minLength=1,
            maxLength=200,
            pattern=WITHOUT_NUL,
            section="How",
            description="A model alias (production), or NAME@VERSION. A run keeps to one model version from start to "
            "end.",
        ),
        "device": Param(
            "auto",
            type="string",
            enum=["auto", "cpu", "gpu"],
            section="How",
            description="cpu: workers of the queue cpu. gpu: workers of the queue gpu. auto: as the plan finds best.",
        ),
        "allow_cpu_fallback": Param(
            False,
            type="boolean",
            section="How",
            description="With device gpu: use the CPU rather than fail if there is no GPU.",
        ),
        "shard_size": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=1_000_000,
            section="How",
            description="Images per mapped task. Empty: chosen by the backlog, so that there are few tasks.",
        ),
    }


def limit_params(*, max_dead_ratio: float) -> dict[str, Param]:
    """Return the parameters that say when a run fails.

    Args:
        max_dead_ratio: The default, 0 to 1.
    """
    return {
        "max_dead_ratio": Param(
            max_dead_ratio,
            type="number",
            minimum=0,
            maximum=1,
            section="When to fail",
            description="The run fails if more than this share of the classified images are dead letters (0 to 1). "
            "Their outcomes are recorded all the same.",
        ),
        "min_images_for_ratio": Param(
            20,
            type="integer",
            minimum=1,
            maximum=1_000_000_000,
            section="When to fail",
            description="The share is judged from this many classified images on.",
        ),
    }


def text(section: str, description: str, *, longest: int = 1_000, pattern: str = WITHOUT_NUL) -> Param:
    """Return a parameter that is text, or empty."""
    return Param("", type="string", maxLength=longest, pattern=pattern, section=section, description=description)


def model_params(which: str, images: str) -> dict[str, Param]:
    """Return the parameters that say which model is registered, and how.

    Args:
        which: Section of what names the model.
        images: Section of how it wants its images.
    """

    def number(kind: str, description: str, **bounds: float) -> Param:
        return Param(None, type=["null", kind], section=images, description=description, **bounds)

    return {
        "source": text(
            which,
            "A TensorFlow Hub or Kaggle handle (https://), or the address s3://bucket/key of a SavedModel's folder or "
            "archive, a .keras or a .tflite file. Empty: take the model that is registered already.",
            longest=2_048,
            pattern=MODEL_ADDRESS,
        ),
        "name": text(which, "Name of the model: letters, digits, dot, dash and underscore.", longest=128),
        "version": text(which, "Its version; another precision or preprocessing is another version.", longest=128),
        "labels": text(
            which,
            "imagenet, or the address s3://bucket/key of a file: CSV with label id and name, or a name on each line. "
            "Needed with a source.",
            longest=2_048,
            pattern=LABELS_ADDRESS,
        ),
        "licence": text(which, "Licence of the weights. Empty: not stated.", longest=200),
        "sha256": text(
            which,
            "What the source's SHA-256 has to be, in hexadecimal digits. Empty: not compared.",
            longest=64,
            pattern="^([0-9a-fA-F]{64})?$",
        ),
        "int8": Param(
            False,
            type="boolean",
            section=which,
            description="Quantise it: weights and activations of 8 bits.",
        ),
        "family": text(
            images, "Known family whose preprocessing it has, such as efficientnet-lite. Empty: as below.", longest=100
        ),
        "input_height": number("integer", "Pixels. Empty: as the model or the family says.", minimum=1, maximum=4_096),
        "input_width": number("integer", "Pixels. Empty: as the model or the family says.", minimum=1, maximum=4_096),
        "crop_fraction": number(
            "number",
            "Side of the centre crop, as a fraction of the shorter side. Empty: as the family says.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "resize_filter": Param(
            "",
            type="string",
            enum=["", "bilinear", "bicubic", "lanczos", "nearest"],
            section=images,
            description="Filter of the resize. Empty: as the family says.",
        ),
        "input_mean": number(
            "number",
            "A pixel, 0 to 255, enters as (pixel - mean) / scale. Empty: as the family says.",
            minimum=-100_000,
            maximum=100_000,
        ),
        "input_scale": number("number", "See there.", exclusiveMinimum=0, maximum=100_000),
        "output": Param(
            "",
            type="string",
            enum=["", "logits", "probabilities"],
            section=images,
            description="What the model answers. Empty: as the family says.",
        ),
        "background_columns": number(
            "integer", "Leading output columns without a label. Empty: as the family says.", minimum=0, maximum=1_000
        ),
    }


def quality_params() -> dict[str, Param]:
    """Return the parameters that say when labels are not like those of the nights before, and what that does.

    Each is empty unless somebody fills it in, and then the settings of the worker that runs ``report`` hold.
    """
    section = "Watching the labels"

    def threshold(text: str, *, most: float = 1) -> Param:
        return Param(
            None,
            type=["null", "number"],
            minimum=0,
            maximum=most,
            section=section,
            description=f"{text} Empty: as the workers' NIGHTLABEL_QUALITY_THRESHOLDS says.",
        )

    return {
        "quality_action": Param(
            None,
            type=["null", "string"],
            enum=[None, "off", "warn", "fail"],
            section=section,
            description="What labels do that are not like those of the 28 days before: nothing, a warning in the log "
            "of report, or report fails. Every outcome is recorded in any case. Empty: as the workers' "
            "NIGHTLABEL_QUALITY_ACTION says.",
        ),
        "quality_min_images": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=1_000_000_000,
            section=section,
            description="Labels that a run must have to be judged. Empty: as the workers' "
            "NIGHTLABEL_QUALITY_THRESHOLDS says.",
        ),
        "quality_js": threshold("Jensen-Shannon distance of the label mixes (0 to 1) that is worth a word."),
        "quality_psi": threshold("Population stability index of the label mixes that is worth a word.", most=100),
        "quality_moved_share": threshold("Share of images with labels beyond the ordinary (0 to 1), likewise."),
        "quality_low_score_rise": threshold("Rise of the share of low scores (0 to 1), likewise."),
        "quality_score_drop": threshold("Fall of the mean score (0 to 1), likewise."),
        "quality_dead_rise": threshold("Rise of the share of dead letters (0 to 1), likewise."),
    }
