"""The command's edge: `--version` without imports, then one line and one exit status for whatever goes wrong."""

import os
import sys

TRACEBACK_VARIABLE = "EDGEAGENT_TRACEBACK"
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad usage, 130 interrupted."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        from edgeagent import __version__

        print(f"edgeagent {__version__}")  # noqa: T201
        return
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """The exit status of one command. Prints an error as one line on stderr, never as a traceback."""
    _tolerate_encodings()
    try:
        status = _invoke(arguments)
        sys.stdout.flush()  # here, so that a reader who left is noticed here and not at interpreter exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  (the outermost edge: a person reads what this prints)
        return _report(error)
    return status


def _invoke(arguments: list[str]) -> int:
    import click

    from edgeagent.cli.main import cli

    try:
        status = cli.main(arguments, prog_name="edgeagent", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context else ""
        _print_error(error.format_message().rstrip(".") + hint)
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    return status if isinstance(status, int) else 0


def _report(error: Exception) -> int:
    from edgeagent.core.errors import EdgeAgentError

    if os.environ.get(TRACEBACK_VARIABLE) == "1":
        raise error
    if isinstance(error, EdgeAgentError):
        message = str(error)
    elif isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        message = f"{what}; check the file or address that this names, its permissions and the space left"
    else:
        what = f"{type(error).__name__}: {error}"
        message = f"unexpected {what}; report it with what {TRACEBACK_VARIABLE}=1 shows"
    _print_error(message)
    return EXIT_FAILED


def _print_error(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201


def _tolerate_encodings() -> None:
    """A terminal that cannot show a character shows a substitute; the answer around it still appears."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
