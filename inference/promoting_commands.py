"""The commands below ``models`` that check and promote. Reads arguments, calls promoting, prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from inference import promoting
from inference.errors import SettingsError
from inference.gate.figures import DEFAULT_GOLDEN_SET, EVERY_MODEL, CheckRequest, Thresholds
from inference.models.registry import ALIASES, PRODUCTION, AliasSpan, Seen
from inference.planning import parse_model
from inference.saying import progress_of_total, say, whole
from inference.settings import Settings
from inference.types import ImageRef, ModelId

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_OK, EXIT_FAILED = 0, 1

THRESHOLDS: Final = {
    "golden_set": (str, "NAME", "the golden set that judges"),
    "min_golden_images": (int, "N", "golden images from which on top-1 is judged; fewer fail the check"),
    "max_unreadable": (float, "S", "largest share of the golden set that may be missing or undecodable, 0 to 1"),
    "min_top1": (float, "S", "least top-1 on the golden set, 0 to 1"),
    "max_loss": (float, "S", "loss of top-1 against production to be ruled out, as 0.02 for 2 points; at most 0.2"),
    "confidence": (float, "S", "how surely it has to be ruled out, 0.8 to 0.9999"),
    "min_compared_images": (int, "N", "images, golden or recent, from which on agreement is judged; at least 30"),
    "min_agreement": (float, "S", "least share of images that both models give the same label, 0 to 1"),
    "max_slowdown": (float, "S", "share of production's speed that may be lost, 0 to 1; more is a warning"),
}
"""Field of ``Thresholds`` -> type, name of the value and help of its option."""


def add_promoting_commands(commands: Subcommands) -> None:
    """Add what checks, compares and promotes models to the commands below ``models``."""
    _add_check(commands)
    _add_compare(commands)
    _add_promote(commands)
    _add_golden(commands)
    _add_thresholds(commands)


def _add_check(commands: Subcommands) -> None:
    check = commands.add_parser(
        "check",
        help="judge a model by the golden set and beside production",
        description="Ask a model about the golden set, and both it and the production model about images that "
        "production labelled in the last days; judge what comes out by the thresholds, and record it. Nothing is "
        "labelled by it. A model needs a check that it passed to be promoted to production.",
        epilog="Exit status: 0 when it passed, 1 when not, 2 for usage. docs/model-gate.md explains the report.",
    )
    check.add_argument("model", metavar="MODEL", help="NAME@VERSION, or an alias such as candidate")
    _add_amounts(check)
    check.set_defaults(command=_check)


def _add_compare(commands: Subcommands) -> None:
    compare = commands.add_parser(
        "compare",
        help="hold two models side by side",
        description="Ask two models about the golden set, and about images that production labelled in the last days: "
        "how right they are, how often they agree, which labels become which, which images flip, and how fast they "
        "are. Nothing is judged or recorded.",
    )
    compare.add_argument("before", metavar="A", help="NAME@VERSION or an alias; in the place of production")
    compare.add_argument("after", metavar="B", help="NAME@VERSION or an alias; in the place of the candidate")
    _add_amounts(compare)
    compare.set_defaults(command=_compare)


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    defaults = CheckRequest("")
    parser.add_argument(
        "--days",
        type=whole(0),
        default=defaults.days,
        metavar="N",
        help="take images that production labelled in the last N days; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        type=whole(0),
        default=defaults.images,
        metavar="N",
        help="at most N of these, drawn at random (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0),
        default=defaults.seed,
        metavar="N",
        help="what they are drawn by: the same number draws the same images (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as a JSON object instead of a report")


def _add_promote(commands: Subcommands) -> None:
    promote = commands.add_parser(
        "promote",
        help="let an alias name a model",
        description="Let an alias name a model from now on. The next run takes what production names when it begins, a "
        "run that is under way keeps its model, and nothing is labelled again. For production the model's last check "
        "has to have passed, beside the present production model and by the present golden set and thresholds.",
        epilog="It takes a login of nightlabel_owner. Exit status: 0 when the alias names the model, 1 when it was "
        "refused, 2 for usage.",
    )
    promote.add_argument("model", metavar="MODEL", help="NAME@VERSION, or an alias such as candidate")
    promote.add_argument("--alias", choices=ALIASES, default=PRODUCTION, help="the alias (default: %(default)s)")
    promote.add_argument(
        "--force", action="store_true", help="promote it though the gate refuses; that it was so is recorded"
    )
    _add_why(promote)
    promote.add_argument("--json", action="store_true", help="print what was done as a JSON object")
    promote.set_defaults(command=_promote)

    remove = commands.add_parser(
        "remove-alias",
        help="let an alias name nothing, as to turn a shadow model off",
        description="Let the alias candidate or shadow name nothing from now on. Its history stays.",
        epilog="It takes a login of nightlabel_owner.",
    )
    remove.add_argument("alias", choices=[alias for alias in ALIASES if alias != PRODUCTION], help="the alias")
    _add_why(remove)
    remove.add_argument("--json", action="store_true", help="print what was done as a JSON object")
    remove.set_defaults(command=_remove_alias)

    history = commands.add_parser(
        "history",
        help="show what the aliases named: who moved them, when and why",
        description="Show what the aliases name and named, the newest first: since when, who moved them there, why, by "
        "which check, and whether it was forced.",
    )
    history.add_argument("--alias", choices=ALIASES, help="only this alias")
    history.add_argument("--model", metavar="MODEL", help="only this model, by NAME@VERSION or an alias")
    history.add_argument("--limit", type=whole(1), metavar="N", help="at most N of the newest (default: all)")
    history.add_argument("--json", action="store_true", help="print a JSON array")
    history.set_defaults(command=_history)


def _add_why(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--why", required=True, metavar="TEXT", help="why, for the history")
    parser.add_argument(
        "--expect",
        metavar="MODEL",
        help="refuse if the alias names anything else than this NAME@VERSION, or none (default: what it names when "
        "the command begins)",
    )


def _add_golden(commands: Subcommands) -> None:
    golden = commands.add_parser(
        "golden",
        help="load, list or remove golden sets",
        description="Golden sets are images whose right label is known; candidates are judged on them.",
    )
    golden_commands = golden.add_subparsers(title="commands", metavar="COMMAND", required=True)
    load = golden_commands.add_parser(
        "load",
        help="load images with their right labels from a CSV file",
        description="Load images with their right labels from a CSV file, whole or not at all. Its first line names "
        "its columns: key (or object_key), label_id or label, and if known bucket and etag; an ETag that is missing is "
        "looked up. Loading the same file again changes nothing; a label that changed is replaced.",
        epilog="A name that stands for two labels (ImageNet has two cranes) needs its label_id. Example: "
        "`models golden load golden.csv --bucket photos`.",
    )
    load.add_argument("file", metavar="ADDRESS", help="s3://bucket/key or a path; also as .gz")
    _add_set(load)
    load.add_argument("--bucket", metavar="B", help="bucket of rows that name none")
    load.add_argument(
        "--model",
        default=PRODUCTION,
        metavar="M",
        help="whose labels they are: an alias or NAME@VERSION (default: %(default)s)",
    )
    load.add_argument(
        "--replace",
        action="store_true",
        help="take out what the file does not name; it takes a login of nightlabel_owner",
    )
    load.add_argument("--json", action="store_true", help="print the counts as a JSON object")
    load.set_defaults(command=_golden_load)

    listing = golden_commands.add_parser("list", help="list the golden sets")
    listing.add_argument("--json", action="store_true", help="print a JSON array")
    listing.set_defaults(command=_golden_list)

    remove = golden_commands.add_parser(
        "remove",
        help="take images out of a golden set",
        description="Take images out of a golden set, by default all of them. The objects stay where they are.",
        epilog="It takes a login of nightlabel_owner.",
    )
    _add_set(remove)
    remove.add_argument("--bucket", metavar="B", help="only those of this bucket")
    remove.add_argument("--prefix", metavar="P", help="only those whose key begins with this; any string")
    remove.add_argument("--json", action="store_true", help="print the count as a JSON object")
    remove.set_defaults(command=_golden_remove)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="golden_set", default=DEFAULT_GOLDEN_SET, metavar="NAME", help="its name (default: %(default)s)"
    )


def _add_thresholds(commands: Subcommands) -> None:
    thresholds = commands.add_parser(
        "thresholds",
        help="show or set what a model has to reach",
        description="Thresholds are for every model, or for one by its name, whatever its version.",
    )
    threshold_commands = thresholds.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = threshold_commands.add_parser("show", help="show the thresholds")
    show.add_argument("--json", action="store_true", help="print a JSON array")
    show.set_defaults(command=_thresholds_show)

    change = threshold_commands.add_parser(
        "set",
        help="change thresholds",
        description="Change the thresholds that are named, and leave the others as they are. A check of before that "
        "was by other thresholds no longer lets a model be promoted.",
        epilog="It takes a login of nightlabel_owner. Example: `models thresholds set --max-loss 0.01 --why TICKET`.",
    )
    change.add_argument(
        "--model",
        default=EVERY_MODEL,
        metavar="NAME",
        help="only for models of this name (default: for every model without thresholds of its own)",
    )
    for name, (kind, value, text) in THRESHOLDS.items():
        change.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=value, help=text)
    change.add_argument("--why", required=True, metavar="TEXT", help="why, for the record")
    change.add_argument("--json", action="store_true", help="print them as a JSON object")
    change.set_defaults(command=_thresholds_set)


def _check(options: argparse.Namespace, settings: Settings) -> int:
    from inference.gate.reporting import check_report

    with progress_of_total("answers") as progress:
        check = promoting.check_model(_amounts(options, options.model), settings=settings, progress=progress)
    if options.json:
        say(json.dumps({**dataclasses.asdict(check), "is_passed": check.is_passed}, default=_as_json))
    else:
        say(check_report(check).rstrip())
    return EXIT_OK if check.is_passed else EXIT_FAILED


def _compare(options: argparse.Namespace, settings: Settings) -> int:
    from inference.gate.reporting import comparison_report

    with progress_of_total("answers") as progress:
        request = _amounts(options, options.after)
        comparison = promoting.compare_models(
            options.before, options.after, request, settings=settings, progress=progress
        )
    if options.json:
        say(json.dumps(dataclasses.asdict(comparison), default=_as_json))
    else:
        say(comparison_report(comparison).rstrip())
    return EXIT_OK


def _amounts(options: argparse.Namespace, model: str) -> CheckRequest:
    return CheckRequest(model, days=options.days, images=options.images, seed=options.seed)


def _promote(options: argparse.Namespace, settings: Settings) -> int:
    request = promoting.PromotionRequest(
        options.model, options.why, alias=options.alias, expected=_expected(options.expect), force=options.force
    )
    done = promoting.promote_model(request, settings=settings)
    if options.json:
        say(json.dumps(dataclasses.asdict(done), default=_as_json))
    elif not done.is_moved:
        say(f"{done.alias} is {done.model} already")
    else:
        forced = "; the gate was overridden" if done.is_forced else ""
        say(f"{done.alias} is {done.model} now, and was {done.before or 'no model'}{forced}")
    return EXIT_OK


def _remove_alias(options: argparse.Namespace, settings: Settings) -> int:
    before = promoting.remove_alias(
        options.alias, reason=options.why, settings=settings, expected=_expected(options.expect)
    )
    if options.json:
        say(json.dumps({"alias": options.alias, "before": before and str(before)}))
    else:
        say(f"{options.alias} is no model now, and was {before or 'none'}")
    return EXIT_OK


def _expected(text: str | None) -> ModelId | Seen | None:
    if text is None:
        return Seen.WHATEVER
    if text == "none":
        return None
    model = parse_model(text)
    if not isinstance(model, ModelId):
        raise SettingsError(f"--expect is {text!r}; give NAME@VERSION, or none")
    return model


def _history(options: argparse.Namespace, settings: Settings) -> int:
    spans = promoting.model_history(settings, alias=options.alias, model=options.model, limit=options.limit)
    if options.json:
        say(json.dumps([dataclasses.asdict(span) for span in spans], default=_as_json))
        return EXIT_OK
    for span in spans:
        say(_span_line(span))
    return EXIT_OK


def _span_line(span: AliasSpan) -> str:
    until = "now" if span.valid_to is None else f"{span.valid_to:%Y-%m-%d %H:%M}"
    who = span.changed_by if span.approved_by is None else f"{span.approved_by} (as {span.changed_by})"
    notes = [
        *([] if span.check_id is None else [f"check {span.check_id}"]),
        *(["forced"] if span.is_forced else []),
        *([] if span.ended_reason is None else [f"ended by {span.ended_by}: {span.ended_reason}"]),
    ]
    line = f"{span.alias}\t{span.model}\t{span.valid_from:%Y-%m-%d %H:%M} to {until}\t{who}\t{span.reason}"
    return line + (f"\t{'; '.join(notes)}" if notes else "")


def _golden_load(options: argparse.Namespace, settings: Settings) -> int:
    written, removed = promoting.load_golden_set(
        options.file,
        settings=settings,
        name=options.golden_set,
        bucket=options.bucket,
        model=options.model,
        replace_all=options.replace,
    )
    if options.json:
        say(json.dumps({"golden_set": options.golden_set, "added_or_changed": written, "removed": removed}))
    else:
        say(f"the golden set {options.golden_set}: {written} images added or changed, {removed} removed")
    return EXIT_OK


def _golden_list(options: argparse.Namespace, settings: Settings) -> int:
    golden_sets = promoting.list_golden_sets(settings)
    if options.json:
        say(json.dumps([dataclasses.asdict(golden_set) for golden_set in golden_sets], default=_as_json))
        return EXIT_OK
    for one in golden_sets:
        say(
            f"{one.name}\t{one.images} images\t{one.labels} labels\t{one.from_review} from review\t"
            f"{one.changed_at:%Y-%m-%d %H:%M}"
        )
    return EXIT_OK


def _golden_remove(options: argparse.Namespace, settings: Settings) -> int:
    removed = promoting.remove_golden_images(
        settings, name=options.golden_set, bucket=options.bucket, prefix=options.prefix
    )
    if options.json:
        say(json.dumps({"golden_set": options.golden_set, "removed": removed}))
    else:
        say(f"the golden set {options.golden_set}: {removed} images removed")
    return EXIT_OK


def _thresholds_show(options: argparse.Namespace, settings: Settings) -> int:
    found = promoting.list_thresholds(settings)
    if options.json:
        say(json.dumps([dataclasses.asdict(thresholds) for thresholds in found]))
        return EXIT_OK
    for thresholds in found:
        say(_thresholds_text(thresholds))
    return EXIT_OK


def _thresholds_set(options: argparse.Namespace, settings: Settings) -> int:
    changes = {name: value for name in THRESHOLDS if (value := getattr(options, name)) is not None}
    thresholds = promoting.set_thresholds(settings, changes, model_name=options.model, reason=options.why)
    say(json.dumps(dataclasses.asdict(thresholds)) if options.json else _thresholds_text(thresholds))
    return EXIT_OK


def _thresholds_text(thresholds: Thresholds) -> str:
    values: dict[str, Any] = dataclasses.asdict(thresholds)
    name = values.pop("model_name")
    title = "every model without its own" if name == EVERY_MODEL else name
    return "\n".join([title, *(f"  {field:<20}{value}" for field, value in values.items())])


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID | ModelId | ImageRef):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")
