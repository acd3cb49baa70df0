"""The command line: ``python -m inference …``. Reads arguments, calls wiring, prints; one sentence for each error."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from inference.errors import InferenceError, RunInterruptedError, SettingsError, dead_letter_codes
from inference.logs import log_to_standard_error
from inference.promoting_commands import add_promoting_commands
from inference.saying import progress_bar, progress_of_total, whole
from inference.saying import say as _say
from inference.settings import Settings, read_settings
from inference.types import (
    DeadLetterFilter,
    ForgetRequest,
    Forgettable,
    LabelFilter,
    MaintenanceRequest,
    Plan,
    RegistrationRequest,
    ReviewRequest,
    RunRequest,
    RunSummary,
)

if TYPE_CHECKING:
    from inference.judging import Verdict
    from inference.models.manifest import Manifest

COUNTS = ("already_done", "deferred", "labelled", "dead", "gone", "done_elsewhere", "unfinished")
"""What ``discovered`` is the sum of, in the order of the summary line."""

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."""
    options = _parser().parse_args(arguments)
    log_to_standard_error(logging.DEBUG if options.verbose else logging.WARNING)
    # Being ended by a service manager is the same as Ctrl-C: the run is closed before this process ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command: Callable[[argparse.Namespace, Settings], int] = options.command
        return command(options, read_settings())
    except SettingsError as error:
        return _complain(error, EXIT_USAGE, options)
    except InferenceError as error:
        return _complain(error, EXIT_FAILED, options)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is left half done\n")
        return EXIT_INTERRUPTED
    except Exception as error:  # the last resort: a sentence instead of a traceback
        logging.getLogger(__name__).debug("Failed", exc_info=error)
        sys.stderr.write(f"error [unexpected]: {type(error).__name__}: {error}; run again with -v for the details\n")
        return EXIT_FAILED


def _complain(error: InferenceError, status: int, options: argparse.Namespace) -> int:
    if options.verbose:
        logging.getLogger(__name__).debug("Failed", exc_info=error)
    sys.stderr.write(f"error [{error.code}]: {error}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference",
        description="Classify the images of a bucket and record a label for each in Postgres, once.",
        epilog="The store is found by the AWS_* variables (AWS_ENDPOINT_URL_S3, keys or role, region), the database by "
        "NIGHTLABEL_DATABASE_URL, the models by NIGHTLABEL_MODEL_STORE; docs/settings.md lists every setting.",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is done, to standard error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    classify = commands.add_parser(
        "classify",
        help="classify what is new under a prefix",
        description="List a prefix, or read which of its objects a manifest or an S3 Inventory report names, classify "
        "every image whose current version has no outcome yet, and record the outcomes. The last line is a summary: "
        "discovered = already_done + deferred + labelled + dead + gone + done_elsewhere + unfinished.",
        epilog="Exit status: 0 when every image has an outcome and the dead ratio holds, 1 when not, 2 for usage.",
    )
    defaults = RunRequest(bucket="")
    _add_run_options(classify, max_dead_ratio=defaults.max_dead_ratio)
    classify.add_argument(
        "--scope",
        choices=("unlabelled", "not_by_this_model"),
        default=defaults.scope,
        help="images without an outcome by any production model, or without one by this model (default: %(default)s)",
    )
    sources = classify.add_mutually_exclusive_group()
    sources.add_argument(
        "--manifest",
        metavar="ADDRESS",
        help="do not list: take the objects that this file names, s3://bucket/key or a path; .csv with a header, "
        ".jsonl, .parquet, or .txt with a key on each line, text also as .gz. Columns: key, and if known etag, size "
        "and last_modified (what is missing is looked up), bucket",
    )
    sources.add_argument(
        "--inventory",
        metavar="ADDRESS",
        help="do not list: take the objects of an S3 Inventory report, by the address of its manifest.json, "
        "s3://bucket/.../manifest.json",
    )
    classify.add_argument(
        "--quality",
        choices=("off", "warn", "fail"),
        help="what labels do that are not like those of the nights before: nothing, a warning on standard error, or "
        "exit status 1, with every outcome recorded (default: the setting NIGHTLABEL_QUALITY_ACTION)",
    )
    classify.add_argument(
        "--shadow-share",
        type=_share,
        metavar="R",
        help="afterwards let the model with the alias `shadow`, if there is one, look at this share of the images that "
        "were labelled, 0 to 1, for comparison only (default: NIGHTLABEL_SHADOW_SHARE)",
    )
    classify.set_defaults(command=_classify)

    retry = commands.add_parser(
        "retry",
        help="try dead letters again",
        description="Try the open dead letters of a bucket again that match every filter given, permanent ones too and "
        "whatever their time. The bucket is not listed: what was overwritten or deleted since counts as gone, and the "
        "next run of classify finds what is there now. Discovered are the dead letters that match.",
        epilog="Exit status: 0 when every image has an outcome and the dead ratio holds, 1 when not, 2 for usage.",
    )
    _add_run_options(retry, max_dead_ratio=1.0)
    retry.add_argument(
        "--code",
        action="extend",
        nargs="+",
        default=[],
        metavar="C",
        help=f"only dead letters with one of these codes: {', '.join(dead_letter_codes())}",
    )
    retry.add_argument(
        "--failed-after", metavar="T", help="only those recorded at this date or time (ISO 8601, UTC) or later"
    )
    retry.add_argument("--failed-before", metavar="T", help="only those recorded before this date or time")
    classes = retry.add_mutually_exclusive_group()
    for name, text in (
        ("permanent", "only those that no nightly run would try again"),
        ("retryable", "only those that a nightly run would try again in its time"),
    ):
        classes.add_argument(f"--{name}", dest="permanent", action="store_const", const=name, default="any", help=text)
    retry.set_defaults(command=_retry)

    again = commands.add_parser(
        "reclassify",
        help="label existing objects again, with another model",
        description="Label the objects of a bucket again that have a label by another model and match every filter "
        "given, but for those that have an outcome by the model already: so running it again does the rest. The bucket "
        "is not listed: what was overwritten or deleted since counts as gone. Discovered are the objects that match. "
        "Labels of other models stay, and latest_prediction shows the best one.",
        epilog="Look with --dry-run first: it says how many images, and about how long. docs/labelling-again.md has "
        "more. Exit status: 0 when every image has an outcome and the dead ratio holds, 1 when not, 2 for usage.",
    )
    _add_run_options(again, max_dead_ratio=defaults.max_dead_ratio)
    again.add_argument(
        "--labelled-by",
        metavar="NAME@VERSION",
        help="everything that this model labelled, and the other filters look at its labels; without it, at those that "
        "latest_prediction would show without the model to label with",
    )
    which = again.add_mutually_exclusive_group()
    which.add_argument("--label", metavar="L", help="only objects with this label, by its name")
    which.add_argument("--label-id", metavar="I", help="only objects with this label, by its id")
    again.add_argument(
        "--since", metavar="T", help="only labels recorded at this date or time (ISO 8601, UTC) or later"
    )
    again.add_argument("--until", metavar="T", help="only labels recorded before this date or time")
    again.add_argument(
        "--dead-letters-too",
        action="store_true",
        help="objects as well for which there is a dead letter instead of a label",
    )
    again.add_argument(
        "--images-per-second",
        type=_rate,
        metavar="R",
        help="begin at most so many images a second (default: as many as go)",
    )
    again.set_defaults(command=_reclassify)

    migrate = commands.add_parser(
        "migrate",
        help="bring the results database up to date",
        description="Create or update the tables and views, and leave the bundled model registered as `production` "
        "where no model is. Building that model takes TensorFlow and half a minute, once.",
    )
    migrate.set_defaults(command=_migrate)

    maintain = commands.add_parser(
        "maintain",
        help="keep the results database small",
        description="Remove what is not current and what no run needs, as a member of nightlabel_owner. Without "
        "--keep-outcome-days and --drop-model only manifests and shards of former runs, and image versions that "
        "nothing refers to, which no public view shows. With them label_by_prefix counts less, and after --drop-model "
        "object_outcome and label_change show that model no more; the other views stay as they are. No image is "
        "labelled again because of it.",
        epilog="Exit status: 0 when it got to its end, or to the end of its time; 1 when not, 2 for usage.",
    )
    for name, text in (
        ("manifest", "drop the manifests of runs that ended more than N days ago"),
        ("run", "make one row of the shards of each plan of runs that ended more than N days ago"),
        ("outcome", "remove outcomes older than N days of versions that no object holds any more"),
    ):
        maintain.add_argument(f"--keep-{name}-days", type=whole(1), metavar="N", help=f"{text} (default: the setting)")
    maintain.add_argument(
        "--drop-model",
        dest="drop_models",
        action="append",
        default=[],
        metavar="NAME@VERSION",
        help="drop every outcome of a superseded model; refused while latest_prediction shows any. May be repeated",
    )
    maintain.add_argument(
        "--time-budget-minutes",
        type=whole(1),
        default=MaintenanceRequest().time_budget_minutes,
        metavar="N",
        help="begin nothing more after N minutes; the next one goes on there (default: %(default)s)",
    )
    maintain.add_argument("--dry-run", action="store_true", help="say what would be removed and do nothing")
    maintain.add_argument("--json", action="store_true", help="print the report as a JSON object")
    maintain.set_defaults(command=_maintain)

    export = commands.add_parser(
        "export",
        help="write a public view to a CSV, JSON Lines or Parquet file",
        description="Write the rows of a public view, as one snapshot and in no particular order, to a file: whole or "
        "not at all, with bounded memory however many they are. A login of nightlabel_reader is enough.",
        epilog="Times are in UTC (ISO 8601), lists in CSV are JSON; docs/export-and-forget.md has the details. "
        "Examples: `export --bucket photos --since 2026-11-01 -o labels.parquet`, "
        "`export --view dead_letter_open | less`. Exit status: 0 when all of it is written, 1 when not, 2 for usage.",
    )
    export.add_argument(
        "--view", default="latest_prediction", metavar="V", help="which one (default: %(default)s); docs/sql.md has all"
    )
    export.add_argument(
        "-o",
        "--output",
        default="-",
        metavar="FILE",
        help="a file that ends in .csv, .jsonl (both also with .gz) or .parquet; - is the standard output (default)",
    )
    export.add_argument(
        "--format", choices=("csv", "jsonl", "parquet"), help="instead of what the ending says (default of -: csv)"
    )
    export.add_argument("--bucket", metavar="B", help="only rows of this bucket")
    export.add_argument("--prefix", metavar="P", help="only rows whose key begins with this; any string, not a folder")
    export.add_argument("--label", metavar="L", help="only rows with this label")
    export.add_argument(
        "--since",
        metavar="T",
        help="only rows of this date or time (ISO 8601, UTC) or later, by the first that the view has of "
        "predicted_at, failed_at, recorded_at, started_at or day; a day counts by its beginning",
    )
    export.add_argument("--until", metavar="T", help="only rows before this date or time")
    export.add_argument("--json", action="store_true", help="say what was written as a JSON object; not with -")
    export.set_defaults(command=_export)

    forget = commands.add_parser(
        "forget",
        help="erase every trace of the objects under a prefix",
        description="Erase what the results database holds of the objects under a prefix, all versions of them: labels "
        "and dead letters by every model, hashes, and their names wherever they are. A record of who asked for it, "
        "when and why stays, without the prefix. Nightlabel only reads the bucket: delete the objects there first, or "
        "the next run finds and labels them again. Called again after it was cut short it goes on.",
        epilog="It takes a login of nightlabel_owner; docs/export-and-forget.md has what it reaches and what it does "
        "not. Example: `forget --bucket photos --prefix users/4711/ --dry-run`, then with `--yes` instead. "
        "Exit status: 0 when nothing is left, 1 when not, 2 for usage.",
    )
    forget.add_argument("--bucket", required=True, metavar="B", help="name of the bucket")
    which = forget.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--prefix", metavar="P", help="beginning of the keys; any string, not a folder: `a` is also that of `ab`"
    )
    which.add_argument("--whole-bucket", action="store_true", help="every object of the bucket")
    forget.add_argument("--reason", default="", metavar="TEXT", help="why, for the record: such as a ticket's number")
    forget.add_argument("--dry-run", action="store_true", help="say what would be forgotten and change nothing")
    forget.add_argument("--yes", action="store_true", help="do not ask; needed where no terminal is")
    forget.add_argument("--json", action="store_true", help="print the counts as a JSON object")
    forget.set_defaults(command=_forget)

    _add_review(commands)

    models = commands.add_parser("models", help="show the registered models, and register others")
    model_commands = models.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = model_commands.add_parser(
        "list",
        help="list the registered models, what the aliases name, and where the files lie",
        description="List the registered models: NAME@VERSION, aliases, day of registration, source and place in the "
        "model store, with tabs between them; with --check also `whole` or what is wrong.",
        epilog="Exit status: 0; with --check 1 when files of a model are not whole.",
    )
    listing.add_argument(
        "--check",
        action="store_true",
        help="read every file in the model store and compare it with what was registered",
    )
    listing.add_argument("--json", action="store_true", help="print a JSON array")
    listing.set_defaults(command=_list_models)
    card = model_commands.add_parser("card", help="print the model card of a version in the model store")
    card.add_argument("model", metavar="NAME@VERSION", help="which version; an alias such as production does as well")
    card.set_defaults(command=_show_card)
    copying = model_commands.add_parser(
        "copy",
        help="copy a version from another model store, or heal it",
        description="Copy a version from another model store into the one of NIGHTLABEL_MODEL_STORE. It is there whole "
        "or not at all; files of it that are missing or damaged there are replaced. The results database is not asked.",
    )
    copying.add_argument("model", metavar="NAME@VERSION", help="which version")
    copying.add_argument(
        "--from", dest="source", required=True, metavar="PLACE", help="the other store: a folder, or s3://bucket/prefix"
    )
    copying.set_defaults(command=_copy_model)
    _add_register(model_commands)

    serve = commands.add_parser(
        "serve",
        help="answer over REST",
        description="Serve the production model over REST, with the labels that the batch job would write.",
    )
    serve.add_argument("--host", metavar="H", help="address to listen on; beyond loopback a key is needed")
    serve.add_argument("--port", type=whole(1), metavar="N", help="port to listen on (default: 8000)")
    serve.add_argument(
        "--model", default=defaults.model, metavar="M", help="an alias or NAME@VERSION (default: %(default)s)"
    )
    serve.set_defaults(command=_serve)
    add_promoting_commands(model_commands)
    return parser


def _add_register(commands: Any) -> None:  # noqa: ANN401 - argparse does not name the type
    register = commands.add_parser(
        "register",
        help="fetch, convert and check a model, and register it as a version",
        description="Fetch a model once, convert it for LiteRT, compare the conversion with the original on photos, "
        "and put it into the model store and the results database as NAME@VERSION. No alias names it yet.",
        epilog="docs/models.md has the families, the kinds of sources and what is refused. Example: `models register "
        "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/classification/5 --name mobilenet-v2 --version 5 "
        "--family mobilenet-v2 --labels imagenet`. Exit status: 0 when it is registered, 1 when not, 2 for usage.",
    )
    register.add_argument(
        "source",
        metavar="SOURCE",
        help="a TensorFlow Hub or Kaggle handle, a path or s3://bucket/key: a SavedModel (folder, .tar.gz, .zip), a "
        ".keras file or a .tflite file",
    )
    register.add_argument("--name", required=True, metavar="N", help="name of the model")
    register.add_argument("--version", required=True, metavar="V", help="its version")
    register.add_argument(
        "--labels", metavar="FILE", help="CSV with label_id and name, or a name on each line; or the word imagenet"
    )
    register.add_argument(
        "--family", metavar="F", help="take the preprocessing of this family; docs/models.md has them"
    )
    register.add_argument(
        "--preprocessing", metavar="FILE", help="a .json or .toml file with any of the options from here to --licence"
    )
    register.add_argument("--input-size", metavar="S", help="pixels, 224 or height x width as 240x320")
    register.add_argument(
        "--crop", type=float, metavar="C", help="side of the centre crop as a fraction of the shorter side, up to 1"
    )
    register.add_argument("--filter", metavar="R", help="of the resize: bilinear, bicubic, lanczos or nearest")
    register.add_argument(
        "--scale",
        metavar="S",
        help="range of the model's input: unit (0 to 1), signed (-1 to 1), pixel (0 to 255), or MEAN,SCALE of "
        "(pixel - MEAN) / SCALE",
    )
    register.add_argument("--output", metavar="O", help="logits or probabilities")
    register.add_argument(
        "--background",
        type=whole(0),
        metavar="N",
        help="leading output columns that are no label (default: the family's)",
    )
    register.add_argument("--licence", metavar="L", help="of the model, for its manifest, such as Apache-2.0")
    register.add_argument(
        "--sha256", metavar="H", help="refuse another file, archive or folder than the one of this hash"
    )
    register.add_argument("--int8", action="store_true", help="quantise to 8 bits, as a version of its own")
    register.add_argument(
        "--calibration",
        metavar="PHOTOS",
        help="folder or s3://bucket/prefix to quantise by (default: installed photos)",
    )
    register.add_argument(
        "--golden-photos", metavar="PHOTOS", help="folder or s3://bucket/prefix to compare the conversion on as well"
    )
    register.add_argument("--json", action="store_true", help="print what was registered as a JSON object")
    register.set_defaults(command=_register_model)


def _add_review(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add what reviewers use."""
    review = commands.add_parser("review", help="look at labels of a low score and correct them")
    steps = review.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = steps.add_parser(
        "list",
        help="list labels that the model is unsure of and nobody has reviewed, the lowest score first",
        description="List the objects whose present label has a low score and no review, the lowest first. A login of "
        "nightlabel_reader is enough.",
    )
    listing.add_argument("--bucket", metavar="B", help="only of this bucket")
    listing.add_argument("--prefix", default="", metavar="P", help="only keys that begin with this; any string")
    listing.add_argument("--model", metavar="M", help="only labels by this model, NAME@VERSION")
    listing.add_argument(
        "--below", type=_share, metavar="S", help="only scores below this, at most 0.5 (default: NIGHTLABEL_LOW_SCORE)"
    )
    listing.add_argument("--limit", type=whole(1), default=20, metavar="N", help="how many (default: %(default)s)")
    listing.add_argument("--json", action="store_true", help="print a JSON object on each line")
    listing.set_defaults(command=_list_reviews)
    record = steps.add_parser(
        "record",
        help="record the right label of an object",
        description="Record the label that a person gives to what an object holds now, and put it into the golden set. "
        "Recorded again, the new label holds and the former one stays in the history. It takes a login of "
        "nightlabel_writer, or one that may execute record_review.",
    )
    record.add_argument("--bucket", required=True, metavar="B", help="name of the bucket")
    record.add_argument("--key", required=True, metavar="K", help="the key, as the views show it")
    record.add_argument(
        "--label", required=True, metavar="L", help="name or id of a label that the model knows; the id if names repeat"
    )
    record.add_argument("--reviewer", required=True, metavar="WHO", help="who looked at the image")
    record.add_argument("--note", default="", metavar="TEXT", help="what there is to say about it")
    record.add_argument("--etag", metavar="E", help="refuse unless this version is still there")
    record.add_argument(
        "--golden-set",
        default="review",
        metavar="NAME",
        help="the golden set that it goes to, in which it may not replace what came from a CSV file "
        "(default: %(default)s)",
    )
    record.add_argument("--json", action="store_true", help="print a JSON object")
    record.set_defaults(command=_record_review)
    export = steps.add_parser(
        "export",
        help="write every recorded review to a CSV, JSON Lines or Parquet file",
        description="Write the view image_review, superseded reviews included, as `export` does.",
    )
    export.add_argument("-o", "--output", default="-", metavar="FILE", help="as of `export` (default: standard output)")
    export.add_argument("--format", choices=("csv", "jsonl", "parquet"), help="instead of what the ending says")
    export.add_argument("--bucket", metavar="B", help="only of this bucket")
    export.add_argument("--prefix", metavar="P", help="only keys that begin with this; any string")
    export.add_argument("--json", action="store_true", help="say what was written as a JSON object; not with -")
    export.set_defaults(command=_export, view="image_review", label=None, since=None, until=None)


def _add_run_options(parser: argparse.ArgumentParser, *, max_dead_ratio: float) -> None:
    """Add what every command that labels takes."""
    defaults = RunRequest(bucket="")
    parser.add_argument("--bucket", required=True, metavar="B", help="name of the bucket")
    parser.add_argument("--prefix", default="", metavar="P", help="beginning of the keys; any string, not a folder")
    parser.add_argument(
        "--model", default=defaults.model, metavar="M", help="an alias or NAME@VERSION (default: %(default)s)"
    )
    parser.add_argument(
        "--max-images", type=whole(0), metavar="N", help="classify at most N images and leave the rest for later"
    )
    parser.add_argument("--shard-size", type=whole(1), metavar="N", help="images a shard (default: by the backlog)")
    parser.add_argument(
        "--max-dead-ratio",
        type=_share,
        default=max_dead_ratio,
        metavar="R",
        help="fail when more than this share of the classified images are dead letters (default: %(default)s)",
    )
    parser.add_argument(
        "--min-images-for-ratio",
        type=whole(0),
        default=defaults.min_images_for_ratio,
        metavar="N",
        help="judge the ratio from so many classified images on (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")
    parser.add_argument("--json", action="store_true", help="print the summary as a JSON object")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images a second, above 0")
    return value


def _classify(options: argparse.Namespace, settings: Settings) -> int:
    request = dataclasses.replace(
        _request(options), scope=options.scope, manifest=options.manifest, inventory=options.inventory
    )
    share = settings.shadow_share if options.shadow_share is None else options.shadow_share
    return _run(request, options, settings, shadow_share=share)


def _retry(options: argparse.Namespace, settings: Settings) -> int:
    from inference.planning import parse_time

    chosen = DeadLetterFilter(
        codes=tuple(options.code),
        failed_after=parse_time("--failed-after", options.failed_after) if options.failed_after else None,
        failed_before=parse_time("--failed-before", options.failed_before) if options.failed_before else None,
        permanent=options.permanent,
    )
    return _run(dataclasses.replace(_request(options), dead_letters=chosen), options, settings)


def _reclassify(options: argparse.Namespace, settings: Settings) -> int:
    from inference.planning import parse_time

    chosen = LabelFilter(
        label=options.label,
        label_id=options.label_id,
        since=parse_time("--since", options.since) if options.since else None,
        until=parse_time("--until", options.until) if options.until else None,
        labelled_by=options.labelled_by,
        dead_letters_too=options.dead_letters_too,
    )
    request = dataclasses.replace(_request(options), labelled=chosen, images_per_second=options.images_per_second)
    return _run(request, options, settings)


def _request(options: argparse.Namespace) -> RunRequest:
    return RunRequest(
        bucket=options.bucket,
        prefix=options.prefix,
        model=options.model,
        max_images=options.max_images,
        shard_size=options.shard_size,
        max_dead_ratio=options.max_dead_ratio,
        min_images_for_ratio=options.min_images_for_ratio,
        dry_run=options.dry_run,
    )


def _run(request: RunRequest, options: argparse.Namespace, settings: Settings, *, shadow_share: float = 0.0) -> int:
    """Run everything on this machine and print how it ended; then the shadow, which changes nothing of that."""
    from inference import wiring
    from inference.planning import check_request

    check_request(request)  # what cannot mean anything needs no database to say so
    with progress_of_total() as advance:
        rules = settings.quality_rules()
        if getattr(options, "quality", None):
            rules = dataclasses.replace(rules, action=options.quality)
        result = wiring.classify(request, settings=settings, progress=advance, rules=rules)
    if result.warning is not None:
        sys.stderr.write(f"warning [{result.warning.code}]: {result.warning}\n")
    if result.problem is not None:
        _complain(result.problem, EXIT_FAILED, options)
    if result.summary is None:
        _say(_plan_json(result.plan, request) if options.json else _plan_line(result.plan, request))
        return EXIT_OK
    _say(_summary_json(result.summary, result.verdict) if options.json else _summary_line(result.summary))
    if isinstance(result.problem, RunInterruptedError):
        return EXIT_INTERRUPTED
    if result.problem is None:
        _run_shadow(result.summary, request, shadow_share, settings)
    return EXIT_OK if result.problem is None else EXIT_FAILED


def _run_shadow(main: RunSummary, request: RunRequest, share: float, settings: Settings) -> None:
    """Let the shadow model look at a share of a run's images, and tell it on standard error; it fails nothing."""
    if share == 0:
        return
    from inference import wiring

    try:
        with progress_of_total() as advance:
            result = wiring.shadow(main, request, share, settings=settings, progress=advance)
    except (Exception, KeyboardInterrupt) as error:  # whatever it is, the run above stands
        logging.getLogger(__name__).debug("Failed", exc_info=error)
        code = error.code if isinstance(error, InferenceError) else type(error).__name__
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"[{code}] {error}"
        sys.stderr.write(f"the shadow run failed, and the run above stands: {reason}\n")
        return
    if result is not None and result.summary is not None:
        why = "" if result.problem is None else f"; [{result.problem.code}] {result.problem}"
        sys.stderr.write(f"shadow {_summary_line(result.summary)}{why}\n")


PLAN_COUNTS = ("discovered", "already_done", "deferred", "to_classify", "to_classify_bytes")


def _plan_json(plan: Plan, request: RunRequest) -> str:
    facts: dict[str, object] = {name: getattr(plan, name) for name in PLAN_COUNTS}
    if request.is_estimated:
        facts |= {
            "max_images_per_second": plan.images_per_second,
            "recent_images_per_second": None if plan.speed is None else plan.speed.images_per_second,
            "is_speed_of_model": None if plan.speed is None else plan.speed.is_of_model,
            "expected_s": plan.expected_s,
        }
    return json.dumps({"dry_run": True, "model": str(plan.model), **facts})


def _plan_line(plan: Plan, request: RunRequest) -> str:
    from inference.planning import duration_text

    counts = ", ".join(f"{name} {getattr(plan, name)}" for name in PLAN_COUNTS)
    time = f"; it takes {duration_text(plan)}" if request.is_estimated else ""
    return f"dry run with {plan.model}: {counts}{time}"


def _summary_json(summary: RunSummary, verdict: Verdict | None) -> str:
    quality = None
    if verdict is not None:
        found = dataclasses.asdict(verdict)
        quality = {"verdict": found.pop("name"), **found}
    return json.dumps({**dataclasses.asdict(summary), "quality": quality}, default=_as_json)


def _as_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a summary")


def _summary_line(summary: RunSummary) -> str:
    counts = " + ".join(f"{name} {getattr(summary, name)}" for name in COUNTS)
    rate = 0.0 if summary.images_per_second is None else summary.images_per_second
    return (
        f"run {summary.run_id} {summary.state} with {summary.model_name}@{summary.model_version}: "
        f"discovered {summary.discovered} = {counts}; copied {summary.copied}; {rate:.1f} images/s"
    )


def _migrate(_options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring

    before, after, production = wiring.migrate(settings)
    was = "empty" if before is None else f"at revision {before}"
    _say(f"the results database was {was} and is at revision {after}; production is {production}")
    return EXIT_OK


def _maintain(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring

    names = [field.name for field in dataclasses.fields(MaintenanceRequest) if field.name != "drop_models"]
    request = MaintenanceRequest(
        drop_models=tuple(options.drop_models), **{name: getattr(options, name) for name in names}
    )
    report = wiring.maintain(settings, request)
    if options.json:
        _say(json.dumps(dataclasses.asdict(report) | {"is_complete": report.is_complete}))
        return EXIT_OK
    counts = ", ".join(f"{step.name} {step.rows}{'' if step.is_complete else ' so far'}" for step in report.steps)
    rest = "" if report.is_complete else "; the time was up, and the next maintenance goes on there"
    _say(f"{'a dry run found' if report.dry_run else 'maintenance is done'}: {counts}{rest}")
    return EXIT_OK


def _export(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring
    from inference.exporting import STANDARD_OUTPUT, ExportRequest
    from inference.planning import parse_time

    request = ExportRequest(
        view=options.view,
        output=options.output,
        format=options.format,
        bucket=options.bucket,
        prefix=options.prefix,
        label=options.label,
        since=parse_time("--since", options.since) if options.since else None,
        until=parse_time("--until", options.until) if options.until else None,
    )
    if options.json and request.output == STANDARD_OUTPUT:
        raise SettingsError("--json says what was written, and the standard output is taken; name a file with --output")
    is_shown = request.output == STANDARD_OUTPUT and sys.stdout is not None and sys.stdout.isatty()
    with nullcontext() if is_shown else progress_bar("rows") as bar:

        def advance(rows: int) -> None:
            if bar is not None:
                bar.update(rows)

        rows = wiring.export(request, settings=settings, progress=advance)
    if request.output != STANDARD_OUTPUT:
        size_bytes = os.stat(request.output).st_size
        written = {"view": request.view, "output": request.output, "rows": rows, "size_bytes": size_bytes}
        _say(
            json.dumps(written)
            if options.json
            else f"{rows:,} rows of {request.view} are in {request.output} ({size_bytes:,} bytes)"
        )
    return EXIT_OK


def _forget(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring

    if options.prefix == "":
        raise SettingsError("--prefix is empty, and every key begins with that; give --whole-bucket if that is meant")
    request = ForgetRequest(options.bucket, options.prefix or "", options.reason)
    if not (options.yes or options.dry_run or (sys.stdin is not None and sys.stdin.isatty())):
        raise SettingsError("nothing was forgotten, since nobody can be asked here; look at --dry-run, then give --yes")
    if options.dry_run or not options.yes:
        found = wiring.count_forgettable(request, settings=settings)
        if options.dry_run:
            _say(_counts_json(found, dry_run=True) if options.json else f"dry run: would forget {_counts_line(found)}")
            return EXIT_OK
        sys.stderr.write(f"This forgets {_counts_line(found)}. It cannot be undone. Type yes to go on: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() != "yes":
            raise SettingsError("nothing was forgotten, since the answer was not yes")
    with progress_bar("images") as bar:

        def advance(images: int) -> None:
            if bar is not None:
                bar.update(images)

        try:
            forgotten = wiring.forget(request, settings=settings, progress=advance)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; what was forgotten stays so, and the same command goes on with the rest\n")
            return EXIT_INTERRUPTED
    if options.json:
        _say(_counts_json(forgotten, dry_run=False))
    else:
        _say(
            f"forgot {_counts_line(forgotten)}; what of it is still in the bucket is found again by the next run, "
            "and copies elsewhere (backups, exports, logs) are not reached from here"
        )
    return EXIT_OK


def _counts_json(counts: Forgettable, *, dry_run: bool) -> str:
    found = dataclasses.asdict(counts)
    return json.dumps({"dry_run": dry_run, **found} if dry_run else {n: v for n, v in found.items() if n != "examples"})


def _counts_line(counts: Forgettable) -> str:
    examples = f"; keys such as {', '.join(map(repr, counts.examples))}" if counts.examples else ""
    return (
        f"{counts.images:,} image versions of {counts.objects:,} objects, {counts.outcomes:,} outcomes, "
        f"{counts.manifest_refs:,} refs in manifests, {counts.listings:,} listings, the names in {counts.runs:,} runs"
        f"{examples}"
    )


def _list_reviews(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring

    queue = wiring.list_review_queue(
        settings,
        below=min(settings.low_score, 0.5) if options.below is None else options.below,
        bucket=options.bucket,
        prefix=options.prefix,
        model=options.model,
        limit=options.limit,
    )
    for image in queue:
        if options.json:
            _say(json.dumps(dataclasses.asdict(image), default=_as_json))
            continue
        named = zip(image.top_labels[:3], image.top_scores[:3], strict=False)
        said = ", ".join(f"{label} {score:.2f}" for label, score in named)
        _say(f"{image.score:.3f}\t{image.bucket}\t{image.object_key!r}\t{said}\t{image.etag}")
    return EXIT_OK


def _record_review(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring

    request = ReviewRequest(
        bucket=options.bucket,
        key=options.key,
        label=options.label,
        reviewer=options.reviewer,
        note=options.note,
        etag=options.etag,
        golden_set=options.golden_set,
    )
    number = wiring.record_review(settings, request)
    _say(
        json.dumps({"review_id": number, **dataclasses.asdict(request)})
        if options.json
        else f"review {number}: {request.key!r} of {request.bucket} is {request.label}; it is in the golden set "
        f"{request.golden_set}"
    )
    return EXIT_OK


def _list_models(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring

    models = wiring.list_models(settings)
    store = wiring.open_model_store(settings)
    problems = wiring.check_models(settings, models) if options.check else {}
    status = EXIT_FAILED if any(problems.values()) else EXIT_OK
    if options.json:
        rows: list[dict[str, object]] = [
            {
                "name": model.model_id.name,
                "version": model.model_id.version,
                "aliases": model.aliases,
                "source": model.source,
                "registered_at": model.registered_at.isoformat(),
                "where": store.where(model.model_id),
            }
            for model in models
        ]
        for row, model in zip(rows, models, strict=True):
            if options.check:
                row |= {"is_whole": problems[model.model_id] is None, "problem": problems[model.model_id]}
        _say(json.dumps(rows))
        return status
    for model in models:
        columns = [
            str(model.model_id),
            ", ".join(model.aliases) or "-",
            f"{model.registered_at:%Y-%m-%d}",
            model.source,
            store.where(model.model_id),
        ]
        if options.check:
            columns.append(problems[model.model_id] or "whole")
        _say("\t".join(columns))
    return status


def _show_card(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring

    _say(wiring.read_model_card(settings, options.model).rstrip("\n"))
    return EXIT_OK


def _copy_model(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring
    from inference.planning import parse_model
    from inference.types import ModelId

    model = parse_model(options.model)
    if not isinstance(model, ModelId):
        raise SettingsError(f"the model to copy is {options.model!r}; give NAME@VERSION, since aliases are not copied")
    manifest = wiring.copy_model(settings, model, source=options.source)
    _say(f"{manifest.model_id} is whole in {wiring.open_model_store(settings).where(model)}")
    return EXIT_OK


def _register_model(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring
    from inference.models.preprocessing_options import registration_options

    request = RegistrationRequest(
        source=options.source,
        name=options.name,
        version=options.version,
        labels=options.labels,
        sha256=options.sha256,
        int8=options.int8,
        calibration=options.calibration,
        golden_photos=options.golden_photos,
        **registration_options(
            options.preprocessing,
            family=options.family,
            input_size=options.input_size,
            crop=options.crop,
            filter=options.filter,
            scale=options.scale,
            output=options.output,
            background=options.background,
            licence=options.licence,
        ),
    )

    def say(words: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"{words}\n")

    manifest = wiring.register_model(settings, request, progress=say)
    _say(_manifest_json(manifest) if options.json else _manifest_line(manifest))
    return EXIT_OK


def _manifest_json(manifest: Manifest) -> str:
    told = manifest.model_dump(mode="json", exclude={"format", "labels", "files"})
    return json.dumps({**told, "labels": len(manifest.labels), "files": len(manifest.files)})


def _manifest_line(manifest: Manifest) -> str:
    size = manifest.preprocessing
    line = (
        f"registered {manifest.model_id} from {manifest.source}: {size.height} x {size.width}, "
        f"{len(manifest.labels):,} labels, {manifest.precision}, for {' and '.join(sorted(manifest.engines))}"
    )
    if manifest.agreement is not None:
        found = manifest.agreement
        line += (
            f"; the conversion gives the original's label to {found.equal_top1} of {found.inputs} photos, and differs "
            f"by {found.max_difference:.1g} at most"
        )
    if manifest.litert_refusal is not None:
        line += f"; it stays on TensorFlow: {manifest.litert_refusal}"
    return line


def _serve(options: argparse.Namespace, settings: Settings) -> int:
    from inference import wiring
    from inference.api.server import serve

    changed = {"api_host": options.host, "api_port": options.port}
    overrides = {name: value for name, value in changed.items() if value is not None}
    chosen = read_settings(**overrides) if overrides else settings
    serve(chosen, lambda: wiring.load_served_model(chosen, options.model))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
