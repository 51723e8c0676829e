"""The commands of `prefect-loova`, each loaded when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Group, Parameter

_OPTIONS = Group("Options")

app = App(
    name="prefect-loova",
    help="Make videos on Loova, pay for each once, and save them in your S3 bucket.",
    help_flags=("--help",),
    help_format="plaintext",
    help_formatter="plain",
    group_arguments=_OPTIONS,
    group_parameters=_OPTIONS,
    version=lambda: version("prefect-loova"),
    default_parameter=Parameter(negative=(), show_default=False, show_env_var=False),
    # `interrupts` handles Ctrl-C.
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(help="Complete commands with the Tab key in your shell.")


def _add(name: str, arguments: str, help: str, example: str) -> None:
    """Add a command: the function `name` of the module `prefect_loova.cli.name`."""
    words = " ".join(filter(None, ("prefect-loova", name, arguments, "[OPTIONS]")))
    usage = f"Usage: {words}\nExample: prefect-loova {name} {example}"
    app.command(f"prefect_loova.cli.{name}:{name}", name=name, help=help, usage=usage)


_add("generate", "PROMPT", "Make one video, and save it in a bucket.", '"A boat at sunset" --bucket my-videos')
_add(
    "batch",
    "FILE",
    "Make the videos of a list (CSV, JSON lines or YAML).",
    "prompts.csv --bucket my-videos --max-credits 2000",
)
_add(
    "story",
    "FILE",
    "Make the shots of a story, and join them into one film.",
    "story.yaml --bucket my-videos --dry-run",
)
_add(
    "publish",
    "[KEY...]",
    "Copy chosen videos to names of your own, with a gallery page.",
    "--report prompts.report.csv --bucket my-videos",
)
_add("collect", "[KEY]", "Save videos that are ready, and submit what is queued.", "--bucket my-videos")
_add(
    "resolve",
    "[KEY [DECISION [TASK_ID]]]",
    "List the jobs in doubt, or decide about one.",
    "KEY adopt TASK_ID --bucket my-videos --why 'found it'",
)
_add(
    "review",
    "[GROUP [DECISION [TAKE]]]",
    "List takes that wait for a person, or choose among them.",
    "GROUP choose 1 --bucket my-videos",
)
_add("credits", "", "Show the balance, and the credits spent by day and model.", "--bucket my-videos --days 7")
# The simulator parses its own arguments.
app.command("prefect_loova.cli.simulator:simulator", name="simulator", help="Run a simulated Loova.", help_flags=())
_add("playground", "", "Run a simulated Loova and S3, with Prefect blocks for them.", "--block loova")
_add("init", "[DIR]", "Write a project with a flow, its test and its deployments.", "my-videos")


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code. Every error is one message without a traceback.

    Args:
        arguments: The arguments, without the program's name.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    as_json = "--json" in arguments
    try:
        command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
        code = command(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        from prefect_loova.cli.outcome import fail, wrong_arguments  # noqa: PLC0415

        return fail(wrong_arguments(error, arguments), as_json)
    except Exception as error:
        from prefect_loova.cli.outcome import fail  # noqa: PLC0415

        return fail(error, as_json)
    return code if isinstance(code, int) else 0
