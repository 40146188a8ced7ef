"""The command line: a thin function for each command, which loads its room only when called."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from infra.store.commands import store

USER_ERROR = 2


class Commands(TyperGroup):
    """The commands; any of them ends with one sentence, and exit code 2 for what a user can mend."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except (ValueError, RuntimeError) as error:
            from flows.stage import StageFailed  # not at the top: `--help` answers at once
            from stages.params import Refusal

            if not isinstance(error, Refusal | StageFailed):
                raise
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(USER_ERROR if isinstance(error, Refusal) else 1) from None


app = typer.Typer(
    cls=Commands,
    name="pedigree",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A pretraining pipeline whose every artifact can be built again, and explained.\n\n"
    "Example: pedigree run && pedigree summary",
)

Targets = Annotated[list[str] | None, typer.Argument(help="Stages, or kinds of stages; default: all.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


@app.command()
def run(
    targets: Targets = None,
    local: Annotated[bool, typer.Option("--local", help="Without Prefect: nothing is recorded.")] = False,
    push: Annotated[bool, typer.Option(" /--no-push", help="Leave the default remote as it is.")] = True,
) -> None:
    """Bring the build up to date: stages that don't wait for each other run side by side.

    Example: pedigree run tokenize
    """
    from flows.check import check_lock, check_params
    from flows.terminal import build_with_prefect, watched
    from flows.work import build_locally

    check_params()
    check_lock()
    watched()
    if local:
        build_locally(targets, push=push)
    else:
        build_with_prefect(targets or [], push=push)


@app.command()
def check() -> None:
    """Check every parameter before anything runs.

    Example: pedigree check && dvc repro
    """
    from flows.check import check_lock, check_params

    print(f"params.yaml: {check_params()} sections are valid")
    check_lock()


@app.command()
def lock(
    sources: Annotated[list[str] | None, typer.Argument(help="Names of sources; default: all.")] = None,
) -> None:
    """Write down what each source is now, byte for byte, and show what has changed since it was locked.

    Example: pedigree lock web
    """
    from flows.lock import lock_sources

    if not lock_sources(sources or []):
        print("sources.lock: nothing has changed")


@app.command()
def doctor(json: Json = False) -> None:
    """Find what would break a build, here and on another machine: one line each, with its remedy.

    Example: pedigree doctor && pedigree run
    """
    from flows.doctor import diagnose, show

    raise typer.Exit(show(diagnose(), as_json=json))


@app.command()
def summary(json: Json = False) -> None:
    """Say what the build made: where each document went, the model, its bits per byte, samples of its text.

    Example: pedigree summary --json > build.json
    """
    from lineage.summary import print_summary

    print_summary(as_json=json)


@app.command()
def why(
    query: Annotated[str | None, typer.Argument(help="An id, an origin, a URL, or a text; - reads a text.")] = None,
    text: Annotated[Path | None, typer.Option("--text", help="A file with the text.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="A commit, tag or branch; default: this folder.")] = None,
    json: Json = False,
) -> None:
    """Say why a document is in the model, or why it isn't: its whole way, with every decision on it.

    Example: pedigree why django/apps/config.py
    """
    from lineage.why.show import print_why, read_text

    print_why(query, read_text(query, text), at, as_json=json)


@app.command()
def rules(
    source: Annotated[str, typer.Argument(help="A name under `sources` in params.yaml.")],
    rule: Annotated[str | None, typer.Option("--rule", help="Only this one, with documents on either side.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="RULE=VALUE: say what that would change.")] = None,
    json: Json = False,
) -> None:
    """Say what each rule of a source drops, with histograms; or what another threshold would change. Writes nothing.

    Example: pedigree rules wiki --set gopher_quality.min_words=30
    """
    from lineage.rules.show import print_rules

    print_rules(source, rule, settings or [], as_json=json)


@app.command()
def trace(
    step: Annotated[int | None, typer.Option("--step", min=1, help="The documents of this step.")] = None,
    steps: Annotated[str | None, typer.Option("--steps", help="The documents of the steps FIRST:LAST.")] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="All that a checkpoint has seen.")] = None,
    document: Annotated[str | None, typer.Option("--document", help="The steps of a document: id or origin.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="A commit, tag or branch; default: this folder.")] = None,
    json: Json = False,
) -> None:
    """Say which documents were trained on in which steps, or in which steps a document was.

    Example: pedigree trace --checkpoint step-00000400
    """
    from lineage.trace.show import print_document, print_steps
    from stages.params import Refusal

    if sum(each is not None for each in (step, steps, checkpoint, document)) != 1:
        raise Refusal("give one of --step N, --steps FIRST:LAST, --checkpoint NAME, --document ID")
    if document is not None:
        print_document(document, at, as_json=json)
    else:
        print_steps(step, steps, checkpoint, at, as_json=json)


@app.command()
def draw(folder: Annotated[Path, typer.Argument(help="Where to.")] = Path("docs/pictures")) -> None:
    """Draw the build as SVG: its stages, the loss of its training, its bits per byte.

    Example: pedigree draw pictures
    """
    from lineage.pictures import write_pictures

    for path in write_pictures(folder):
        print(path)


@app.command()
def export(
    kind: Annotated[
        str, typer.Argument(help="openlineage, cyclonedx, croissant, dataset-card, eu-summary or all.", metavar="KIND")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write to.")] = Path("exports"),
    at: Annotated[str | None, typer.Option("--at", help="A commit, tag or branch; default: this folder.")] = None,
) -> None:
    """Describe the build for the tools of others: events, bill of materials, data set, cards (docs/exports.md).

    Example: pedigree export all --out exports
    """
    from lineage.export.write import export

    for path in export(kind, out, revision=at, tell=lambda line: print(line, file=sys.stderr)):
        print(path)


@app.command()
def report(
    out: Annotated[Path, typer.Option("--out", help="The folder, a new one or that of a report.")] = Path("report"),
    at: Annotated[str | None, typer.Option("--at", help="A commit, tag or branch; default: what stands here.")] = None,
) -> None:
    """Write the review site: a folder of pages on the build, its versions and its documents that opens from disk.

    Example: pedigree report --out review
    """
    from lineage.report import write_report

    print(write_report(Path(), out, at))


@app.command()
def attest(
    rev: Annotated[str | None, typer.Argument(help="With --check: a commit, tag or branch.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check all records of the build; write none.")] = False,
    signed: Annotated[bool, typer.Option("--signed", help="With --check: an unsigned record is a broken one.")] = False,
    json: Json = False,
) -> None:
    """Write a record of each stage that has none, after a plain `dvc repro`; or check all that there are.

    Example: pedigree attest && pedigree attest --check
    """
    if check:
        from lineage.attestation.check import print_check

        raise typer.Exit(print_check(Path(), rev, json, signed))
    from flows.attest import attest_here

    attest_here(rev, json)


@app.command()
def verify(
    rev: Annotated[str | None, typer.Argument(help="A commit, tag or branch; default: the last commit.")] = None,
    data_only: Annotated[bool, typer.Option("--data-only", help="Leave the model out.")] = False,
    stage: Annotated[str | None, typer.Option("--stage", help="Only this stage, and what it needs.")] = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Build in this new folder, and leave it.")] = None,
) -> None:
    """Build a commit again in a clean clone without a cache, and compare every digest.

    Example: pedigree verify --data-only
    """
    from flows.dag import read_dag
    from flows.rebuild import as_committed, rebuild
    from flows.terminal import watched
    from lineage.builds import DATA, print_verdict, read_outs

    watched()
    with as_committed(rev) as before:
        read_outs(before)  # refuses before the long part
        targets = [stage] if stage else DATA if data_only else []
        with rebuild(keep, targets, rev=rev) as clone:
            built = [each.name for each in read_dag(clone).in_order(targets)] if stage else None
            raise typer.Exit(print_verdict(before, clone, data_only, built))


@app.command()
def takedown(
    file: Annotated[Path, typer.Argument(help="Ids, URLs, prefixes (https://…/*), sha256:… of texts; - for stdin.")],
    apply: Annotated[bool, typer.Option("--apply", help="Add them to takedown.jsonl, for the next build.")] = False,
    copies: Annotated[bool, typer.Option("--copies", help="Ask for their duplicates, too.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; --apply writes it down.")] = None,
    json: Json = False,
) -> None:
    """Say which builds and checkpoints have documents that must go, which are clean, and what a build without costs.

    Example: pedigree takedown asked.txt --apply --reason "asked for by the author"
    """
    from flows.takedown import take_down
    from lineage.takedown.question import read_question
    from lineage.takedown.show import print_answer

    stdin = sys.stdin.read() if str(file) == "-" else None
    found = print_answer(read_question(file, stdin), copies, as_json=json)
    if apply:
        added = take_down(found.question.entries, reason=reason)
        print(f"{added} lines added to takedown.jsonl; commit it, then `pedigree run`", file=sys.stderr)


@app.command()
def diff(
    first: Annotated[str | None, typer.Argument(help="A commit or tag; default: the build before.")] = None,
    second: Annotated[str | None, typer.Argument(help="Another; default: the working tree.")] = None,
    json: Json = False,
) -> None:
    """Say what differs between two builds: parameters, code, documents, metrics, and why each stage ran again.

    Example: pedigree diff base@v1.0.0 base@v1.1.0
    """
    from lineage.diff.show import print_difference

    print_difference(first, second, as_json=json)


@app.command()
def log(
    all: Annotated[bool, typer.Option("--all", help="Builds that weren't published, too.")] = False,
    json: Json = False,
) -> None:
    """List the published versions: date, tokens, FLOPs, bits per byte, and which is the current one.

    Example: pedigree log --all
    """
    from lineage.log import print_log

    print_log(all, as_json=json)


@app.command()
def sweep(
    values: Annotated[list[str], typer.Argument(help="What to try: NAME=VALUE,VALUE for each parameter.")],
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Experiments side by side.")] = 1,
) -> None:
    """Build the last commit with other parameters, every combination of them, and rank what they give.

    Example: pedigree sweep pretrain.optimizer.learning_rate=0.01,0.02
    """
    from flows.experiments import parse_values, show, sweep_locally
    from flows.terminal import watched

    watched()
    results = sweep_locally(parse_values(values), at_once)
    show(results)
    raise typer.Exit(any(result.outcome == "failed" for result in results))


@app.command()
def plan(
    preset: Annotated[str | None, typer.Option("--preset", help="A file of presets/; default: params.yaml.")] = None,
    on: Annotated[str, typer.Option("--on", help="Machines, as COUNTxDEVICE.")] = "8xh100",
    mfu: Annotated[float, typer.Option("--mfu", min=0.01, max=1.0, help="Share of their peak that is reached.")] = 0.4,
    price: Annotated[float | None, typer.Option("--price", min=0.0, help="Of a device for an hour.")] = None,
    json: Json = False,
) -> None:
    """Say what a training will take before it runs: tokens, parameters, FLOPs, days, memory, layout, disk, price.

    Example: pedigree plan --preset llama3-405b --on 16384xh100
    """
    from plan.devices import parse_machines
    from plan.page import as_json, as_text
    from plan.plan import make_plan

    print((as_json if json else as_text)(make_plan(preset, parse_machines(on), mfu, price)))


@app.command()
def forecast(json: Json = False) -> None:
    """Say how good the model of params.yaml will be, by the ladder's law; and what came out, once it is trained.

    Example: dvc --cd ladder repro && pedigree forecast
    """
    from forecast.forecast import make_forecast
    from forecast.page import as_json, as_text
    from forecast.runs import read_ladder, read_target

    print((as_json if json else as_text)(make_forecast(read_ladder(), read_target())))


@app.command()
def stage(
    commit: Annotated[str, typer.Argument(help="What a hand-over uploaded.")],
    name: Annotated[str, typer.Argument(metavar="STAGE", help="The stage to run.")],
    remote: Annotated[str, typer.Option("--remote", help="URL of the store, which is the default DVC remote.")],
    machine: Annotated[int, typer.Option("--machine", min=0, help="Which machine this is, if the stage has more.")] = 0,
) -> None:
    """Run one stage that another machine handed over, and put what it makes into the store (docs/places.md).

    Example: pedigree stage 3f1c… pretrain --remote s3://corpus/dvc
    """
    from flows.places.node import run_there
    from flows.terminal import watched

    watched()
    raise typer.Exit(run_there(commit, name, remote, machine))


@app.command()
def automations() -> None:
    """Have the Prefect server tell people of runs that don't begin, fall silent or last too long.

    Example: PEDIGREE_FLOW_WEBHOOK=https://… pedigree automations
    """
    from flows.automations import load_automations

    for name in load_automations():
        print(name)


@app.command()
def publish(
    stage: Annotated[str, typer.Option("--stage", help="What the version is to be; only prod is compared.")] = "prod",
) -> None:
    """Make the finished build a version that others can get, unless it is worse than the current one.

    Example: pedigree publish
    """
    from flows.publication.gate import as_markdown
    from flows.publication.publish import publish
    from flows.terminal import watched

    watched()
    done = publish(stage)
    print("\n".join([*as_markdown(done.comparison), "", done.sentence] if done.comparison else [done.sentence]))
    raise typer.Exit(done.candidate is not None)


@app.command()
def get(
    version: Annotated[str, typer.Argument(help="base@v1.2.0, or base@prod for the current one.")] = "base@prod",
    out: Annotated[Path | None, typer.Option("--out", help="A new folder; default: base-v1.2.0.")] = None,
    url: Annotated[str | None, typer.Option("--from", help="The git repository; default: this one's upstream.")] = None,
) -> None:
    """Fetch a published model, and compare it with its digest.

    Example: pedigree get base@prod --out model
    """
    from flows.publication.get import get

    print(get(version, out, url))


@app.command()
def rollback(
    version: Annotated[str | None, typer.Argument(help="base@v1.2.0; default: the version before.")] = None,
) -> None:
    """Make another version the current one, for everyone.

    Example: pedigree rollback base@v1.2.0
    """
    from flows.publication.rollback import rollback
    from flows.terminal import watched

    watched()
    print(rollback(version))


Services = Annotated[Path, typer.Option("--folder", help="Where they keep their data, credentials and logs.")]


@app.command()
def up(
    folder: Services = Path("scratch/services"),
    port: Annotated[int, typer.Option("--port", help="Of the Prefect server.")] = 4200,
    sqlite: Annotated[bool, typer.Option("--sqlite", help="Without Postgres.")] = False,
) -> None:
    """Start all that scheduled builds need on this machine: object store, Postgres, Prefect server, worker.

    Example: pedigree up && eval "$(pedigree env)"
    """
    from infra import services

    services.up(folder, port, sqlite, print)
    print('In a shell that works with them: eval "$(pedigree env)"')


@app.command()
def down(folder: Services = Path("scratch/services")) -> None:
    """Stop what `pedigree up` started; what it holds stays.

    Example: pedigree down
    """
    from infra import services

    print("stopped: " + (", ".join(services.down(folder)) or "nothing ran"))


@app.command()
def env(folder: Services = Path("scratch/services")) -> None:
    """Print the environment in which this machine's services are found.

    Example: eval "$(pedigree env)"
    """
    import shlex

    from infra import services

    for name, value in services.environment(folder).items():
        print(f"export {name}={shlex.quote(value)}")


app.add_typer(store, name="store")


if __name__ == "__main__":
    app()
