"""`pedigree store …`: a thin function for each command, which loads its room only when called."""

from pathlib import Path
from typing import Annotated

import typer

store = typer.Typer(
    no_args_is_help=True,
    help="The object store that builds are pushed to.\n\nExample: pedigree store check --quick",
)

Folder = Annotated[Path, typer.Option("--folder", help="Where the server keeps its data and credentials.")]


@store.command("up")
def store_up(
    folder: Folder = Path("scratch/store"),
    port: Annotated[int | None, typer.Option("--port", help="Default: that of last time, or 8333.")] = None,
    background: Annotated[bool, typer.Option("--background", help="Return when it is up.")] = False,
) -> None:
    """Start an S3 server on this machine, for trying, with credentials made on the spot.

    Example: pedigree store up --background && eval "$(pedigree store env)"
    """
    from infra.store import server

    if not background:
        raise typer.Exit(server.serve(folder, port))
    print(server.introduction(server.start(folder, port, own_session=True)[0]))


@store.command("down")
def store_down(folder: Folder = Path("scratch/store")) -> None:
    """Stop the server that `pedigree store up` started; what it holds stays.

    Example: pedigree store down
    """
    from infra.store import server

    print("stopped" if server.stop(folder) else "it wasn't running")


@store.command("env")
def store_env(folder: Folder = Path("scratch/store")) -> None:
    """Print the environment in which builds find the server that `pedigree store up` started.

    Example: eval "$(pedigree store env)"
    """
    from infra.store import server

    print(server.exports(server.read_server(folder)))


@store.command("check")
def store_check(
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes; download nothing.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Upload what the cache here holds whole.")] = False,
) -> None:
    """Look whether the remote holds every object that a version, a branch or HEAD needs, with its digest.

    Example: pedigree store check --quick
    """
    from infra.store.scrub import check

    raise typer.Exit(check(Path(), quick, repair))


@store.command("gc")
def store_gc(
    file: Annotated[Path, typer.Argument(help="The plan.")] = Path("scratch/store-gc.json"),
    plan: Annotated[bool, typer.Option("--plan/--apply", help="Write the plan, or delete what it lists.")] = True,
    keep_days: Annotated[float, typer.Option("--keep-days", min=0, help="Younger objects are kept.")] = 7.0,
) -> None:
    """List what no branch, tag or version needs of the remote; and delete what a list names, nothing else.

    Example: pedigree store gc --plan plan.json && pedigree store gc --apply plan.json
    """
    from infra.store import gc

    print(gc.plan(Path(), file, keep_days) if plan else gc.apply(Path(), file))
