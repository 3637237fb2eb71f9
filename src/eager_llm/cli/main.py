"""The command line: all commands of eager-llm."""

import sys

import typer

from eager_llm.cli.bundle import bundle_app
from eager_llm.cli.data import erase_command, features_command, import_command
from eager_llm.cli.evaluate import evaluate_command
from eager_llm.cli.index import index_app
from eager_llm.cli.inspect import inspect_command
from eager_llm.cli.recommend import recommend_command
from eager_llm.cli.refresh import night_command, refresh_command
from eager_llm.cli.rollout import rollout_app
from eager_llm.cli.run import run_command
from eager_llm.cli.serve import serve_command
from eager_llm.cli.settings import settings_command
from eager_llm.core.errors import UserError

app = typer.Typer(
    help="A generative recommender, from a shop's log to a served bundle.\n\n"
    "Start with: eager-llm run (the made-up demo shop), then: eager-llm serve.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("run")(run_command)
app.command("refresh")(refresh_command)
# Its name in earlier versions.
app.command("night", hidden=True)(night_command)
app.command("recommend")(recommend_command)
app.command("serve")(serve_command)
app.command("evaluate")(evaluate_command)
app.command("import")(import_command)
app.command("features")(features_command)
app.command("erase")(erase_command)
app.command("settings")(settings_command)
app.add_typer(bundle_app, name="bundle")
app.add_typer(index_app, name="index")
app.add_typer(rollout_app, name="rollout")
index_app.command("inspect")(inspect_command)


def main() -> None:
    """Run the command line; mistakes of the user end with status 2 and no traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
